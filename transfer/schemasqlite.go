package transfer

import (
	"context"
	"strings"
)

// sqliteSchema reads the tables of a store of SQLite, but for those in leave and SQLite's and the backend's own.
func sqliteSchema(ctx context.Context, q querier, leave map[string]bool) (tables []Table, err error) {
	type row struct {
		name, kind string
		strict     bool
	}
	var list []row
	err = each(ctx, q, `SELECT name, type, strict FROM pragma_table_list WHERE schema = 'main' AND type <> 'view' ORDER BY name`, nil,
		func(scan func(...any) error) error {
			var r row
			if err := scan(&r.name, &r.kind, &r.strict); err != nil {
				return err
			}
			if !strings.HasPrefix(strings.ToLower(r.name), "sqlite_") && r.name != "tenement_store" &&
				!strings.HasPrefix(r.name, "_litestream_") && !leave[r.name] { // what Litestream puts beside the tables that it follows
				list = append(list, r)
			}
			return nil
		})
	if err != nil {
		return nil, err
	}
	for _, r := range list {
		switch r.kind {
		case "shadow":
			continue // part of a virtual table
		case "virtual":
			return nil, &SchemaError{Table: r.name, Reason: "it is a virtual table, whose content cannot be moved; name it in Without, and make it anew from what it indexes"}
		}
		t, err := sqliteTable(ctx, q, r.name, r.strict)
		if err != nil {
			return nil, err
		}
		tables = append(tables, t)
	}
	return tables, nil
}

func sqliteTable(ctx context.Context, q querier, name string, strict bool) (Table, error) {
	t := Table{Name: name}
	keys := map[int]string{}
	err := each(ctx, q, `SELECT name, type, pk, hidden FROM pragma_table_xinfo($1, 'main') ORDER BY cid`, []any{name}, func(scan func(...any) error) error {
		var c Column
		var pk, hidden int
		if err := scan(&c.Name, &c.Declared, &pk, &hidden); err != nil {
			return err
		}
		c.Type = declaredType(c.Declared, strict)
		c.Generated = hidden == 2 || hidden == 3
		if pk > 0 {
			keys[pk] = c.Name
		}
		t.Columns = append(t.Columns, c)
		return nil
	})
	for i := 1; i <= len(keys); i++ {
		t.Key = append(t.Key, keys[i])
	}
	return t, err
}

// sqliteSequences reads where AUTOINCREMENT stands.
func sqliteSequences(ctx context.Context, q querier) (list []Sequence, err error) {
	var there bool
	err = q.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM main.sqlite_schema WHERE name = 'sqlite_sequence')`).Scan(&there)
	if err != nil || !there {
		return nil, err
	}
	err = each(ctx, q, `SELECT name, seq FROM main.sqlite_sequence ORDER BY name`, nil, func(scan func(...any) error) error {
		s := Sequence{Called: true}
		if err := scan(&s.Table, &s.Last); err != nil {
			return err
		}
		list = append(list, s)
		return nil
	})
	return list, err
}
