package manage

import (
	"context"
	"database/sql"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/tenancy"
)

func (t *tree) sqlCommand() *cobra.Command {
	var asJSON bool
	cmd := leaf(&cobra.Command{
		Use:   "sql SLUG [QUERY]",
		Short: "Open psql or sqlite3 on a tenant's store, or run one statement there",
		Long: "Without QUERY, starts psql or sqlite3 on the tenant's store, with the shared tables beside it. With QUERY, runs it as the\n" +
			"application would, with the rights of a tenant, and prints the rows.",
		Example:           "  " + t.cfg.name + ` sql thor "SELECT * FROM polls" --json`,
		ValidArgsFunction: t.completeSlug(),
	})
	cmd.RunE = t.run(func(cmd *cobra.Command, app *tenancy.App, args []string) error {
		tenant, err := app.BySlug(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		if len(args) == 1 {
			if asJSON {
				return usage(cmd, "--json needs a QUERY")
			}
			return t.client(cmd, app, &tenant)
		}
		ctx, _, leave, err := app.Enter(tenancy.Leave(cmd.Context()), &tenant, tenancy.Policy{Operator: true, AnyVersion: true})
		if err != nil {
			return err
		}
		defer leave()
		return printQuery(ctx, app.DB(), args[1], cmd.OutOrStdout(), asJSON)
	})
	cmd.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	return cmd
}

// client runs psql or sqlite3 on the terminal.
func (t *tree) client(cmd *cobra.Command, app *tenancy.App, tenant *tenancy.Tenant) error {
	be, ok := app.Backend().(backend.ClientCommander)
	if !ok {
		return fmt.Errorf("there is no client program for this backend: %w; give a QUERY", errors.ErrUnsupported)
	}
	how, err := be.ClientCommand(cmd.Context(), tenant.Route())
	if err != nil {
		return err
	}
	path, err := exec.LookPath(how.Name)
	if err != nil {
		return fmt.Errorf("%w; install %s, or give a QUERY", err, how.Name)
	}
	// Not bound to the context: an interrupt is for the client, which has the terminal and takes it to end a query.
	c := exec.Command(path, how.Args...)
	c.Env = append(os.Environ(), how.Env...)
	c.Stdin, c.Stdout, c.Stderr = cmd.InOrStdin(), cmd.OutOrStdout(), cmd.ErrOrStderr()
	if err := c.Run(); err != nil {
		return fmt.Errorf("%s: %w", how.Name, err)
	}
	return nil
}

// printQuery runs a statement and prints its rows.
func printQuery(ctx context.Context, db *sql.DB, query string, w io.Writer, asJSON bool) error {
	rows, err := db.QueryContext(ctx, query)
	if err != nil {
		return err
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		return err
	}
	if asJSON {
		err = jsonRows(rows, columns, w)
	} else {
		err = textRows(rows, columns, w)
	}
	if err != nil {
		return err
	}
	return rows.Close()
}

func textRows(rows *sql.Rows, columns []string, w io.Writer) error {
	for i := range columns {
		columns[i] = cell(columns[i])
	}
	tab := newTable(w, columns...)
	values, into := scanInto(len(columns))
	for rows.Next() {
		if err := rows.Scan(into...); err != nil {
			return err
		}
		cells := make([]string, len(values))
		for i, v := range values {
			cells[i] = text(v)
		}
		tab.add(cells...)
	}
	if err := rows.Err(); err != nil {
		return err
	}
	if len(columns) == 0 {
		_, err := fmt.Fprintln(w, "done")
		return err
	}
	if err := tab.end(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "(%s)\n", plural(tab.count, "row", "rows"))
	return err
}

// jsonRows writes an array of objects whose members are in the order of the columns.
func jsonRows(rows *sql.Rows, columns []string, w io.Writer) error {
	seen := map[string]bool{}
	for _, c := range columns {
		if seen[c] {
			return Usagef("two columns are named %q, which an object cannot have: name one of them with AS", c)
		}
		seen[c] = true
	}
	array := newList(w)
	values, into := scanInto(len(columns))
	for rows.Next() {
		if err := rows.Scan(into...); err != nil {
			return err
		}
		if err := array.add(object{columns, values}); err != nil {
			return err
		}
	}
	if err := rows.Err(); err != nil {
		_ = array.w.Flush() // what there was; an array without its end shows that it is not all
		return err
	}
	return array.end()
}

func scanInto(n int) (values, into []any) {
	values, into = make([]any, n), make([]any, n)
	for i := range values {
		into[i] = &values[i]
	}
	return values, into
}

type object struct {
	names  []string
	values []any
}

// MarshalJSON keeps the order of the columns, which a map would not.
func (o object) MarshalJSON() ([]byte, error) {
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	b.WriteByte('{')
	for i, name := range o.names {
		if i > 0 {
			b.WriteByte(',')
		}
		if err := enc.Encode(name); err != nil {
			return nil, err
		}
		b.WriteByte(':')
		if err := enc.Encode(jsonValue(o.values[i])); err != nil {
			return nil, err
		}
	}
	b.WriteByte('}')
	return []byte(b.String()), nil
}

// jsonValue is a column's value as JSON can have it: bytes that are no text in base64, NaN and infinities as text.
func jsonValue(v any) any {
	switch v := v.(type) {
	case []byte:
		if utf8.Valid(v) {
			return string(v)
		}
		return base64.StdEncoding.EncodeToString(v)
	case float64:
		if v != v || v > maxFloat || v < -maxFloat {
			return strconv.FormatFloat(v, 'g', -1, 64)
		}
	}
	return v
}

const maxFloat = 1.797693134862315708145274237317043567981e+308

func text(v any) string {
	switch v := v.(type) {
	case nil:
		return "NULL"
	case []byte:
		if utf8.Valid(v) {
			return string(v)
		}
		return fmt.Sprintf("\\x%x", v)
	case time.Time:
		return v.Format(time.RFC3339Nano)
	}
	return fmt.Sprint(v)
}
