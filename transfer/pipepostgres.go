package transfer

import (
	"context"
	"fmt"
	"io"

	"github.com/tenement-go/tenement/backend/driver"
	"github.com/tenement-go/tenement/internal/sqltext"
)

// unchanged reports whether the rows are what the target takes: the types are the same, in the same places.
func (p *tablePlan) unchanged() bool {
	if p.as != nil || p.expect != "" || len(p.columns) != len(p.source) {
		return false
	}
	for _, c := range p.columns {
		from := p.source[c.at]
		if c.convert != nil || from.Type.sqlite() || from.Declared != c.to.Declared {
			return false
		}
	}
	return true
}

// binary reports whether the rows may go in binary: what the schema's own types are made of has numbers (OIDs) in it that are
// the database's own, and others need not have a binary form.
func (p *tablePlan) binary() bool {
	for _, c := range p.source {
		if ownType(c.Type) {
			return false
		}
	}
	return true
}

// pipe sends what one COPY writes into another, as it comes. Nothing of it is looked at.
func pipe(ctx context.Context, from *postgresReader, to *postgresWriter, p *tablePlan) (rows int64, err error) {
	var source, target []Column
	for _, c := range p.columns {
		source, target = append(source, p.source[c.at]), append(target, c.to)
	}
	with := ""
	if p.binary() {
		with = " (FORMAT binary)"
	}
	copyOut := "COPY (SELECT " + quoted(source, "") + " FROM " + from.from(p.from) + ") TO STDOUT" + with
	pr, pw := io.Pipe()
	var sent int64
	var mine error
	done := make(chan struct{})
	go func() {
		defer close(done)
		mine = withCopier(from.conn, func(c driver.Copier) (err error) {
			sent, err = c.CopyOut(ctx, pw, copyOut)
			return err
		})
		pw.CloseWithError(mine)
	}()
	err = withCopier(to.conn, func(c driver.Copier) (err error) {
		rows, err = c.CopyIn(ctx, pr, "COPY "+sqltext.Quote(p.to.Name)+" ("+quoted(target, "")+") FROM STDIN"+with)
		return err
	})
	pr.CloseWithError(errStopped)
	<-done
	switch {
	case mine != nil && !stopped(mine):
		return 0, mine
	case err != nil:
		return 0, err
	}
	return rows, differ(p.from.Name, sent, rows, true)
}

// rowSums are the number of the rows of a table and a sum of them, worked out by the server: half of it is that of the first
// half of each row's MD5, so that their order does not count. It tells damage and difference from equality, not forgery.
type rowSums struct {
	rows        int64
	first, last string
}

func (r *postgresReader) sums(ctx context.Context, t Table, columns []Column) (s rowSums, err error) {
	half := func(which string) string {
		return "COALESCE(sum(('x' || " + which + "(h, 16))::bit(64)::bigint::numeric), 0)::text"
	}
	err = r.tx.QueryRowContext(ctx, "SELECT count(*), "+half("left")+", "+half("right")+" FROM (SELECT md5(ROW("+quoted(columns, "")+")::text) AS h FROM "+
		r.from(t)+") r").Scan(&s.rows, &s.first, &s.last)
	return s, err
}

// sameSums has both servers sum the rows of a table up.
func (p *tablePlan) sameSums(ctx context.Context, from, to *postgresReader) error {
	var source, target []Column
	for _, c := range p.columns {
		source, target = append(source, p.source[c.at]), append(target, c.to)
	}
	here, err := from.sums(ctx, p.from, source)
	if err != nil {
		return p.located(err)
	}
	there, err := to.sums(ctx, p.to, target)
	if err != nil {
		return fmt.Errorf("target: %w", p.located(err))
	}
	return differ(p.from.Name, here.rows, there.rows, here == there)
}
