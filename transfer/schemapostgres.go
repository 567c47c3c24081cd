package transfer

import (
	"context"
	"errors"
	"maps"

	"github.com/tenement-go/tenement/internal/sqltext"
)

// relationsHere are the OIDs of what is in the schema at hand, but for indexes.
var relationsHere = sqltext.InSchema("pg_class", "current_schema()::regnamespace")

// postgresSchema reads the tables of the schema that comes first in the path, but for those in leave. Partitions are part
// of their parents; what is derived (views, materialized ones too) and what is elsewhere (foreign tables) is not moved.
func postgresSchema(ctx context.Context, q querier, leave map[string]bool) (tables []Table, err error) {
	query := `SELECT c.oid, c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.atttypid, a.atttypmod, a.attgenerated <> '',
			COALESCE(array_position(i.indkey::int2[], a.attnum), -1), c.relkind = 'p'
		FROM pg_catalog.pg_class c
		LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
		LEFT JOIN pg_catalog.pg_index i ON i.indrelid = c.oid AND i.indisprimary
		WHERE c.oid = ANY (` + relationsHere + `) AND c.relkind IN ('r', 'p') AND NOT c.relispartition
		ORDER BY c.relname COLLATE "C", a.attnum`
	type found struct {
		oid, mod int64
	}
	var oids [][]found
	keys := []map[int]string{}
	last := ""
	err = each(ctx, q, query, nil, func(scan func(...any) error) error {
		var oid int64
		var table string
		var name, declared *string
		var f struct{ oid, mod *int64 }
		var generated *bool
		var key int
		var partitioned bool
		if err := scan(&oid, &table, &name, &declared, &f.oid, &f.mod, &generated, &key, &partitioned); err != nil {
			return err
		}
		if leave[table] {
			return nil
		}
		if last != table || len(tables) == 0 {
			tables = append(tables, Table{Name: table, partitioned: partitioned})
			oids = append(oids, nil)
			keys = append(keys, map[int]string{})
			last = table
		}
		if name == nil {
			return nil // a table without columns
		}
		n := len(tables) - 1
		tables[n].Columns = append(tables[n].Columns, Column{Name: *name, Declared: *declared, Generated: *generated})
		oids[n] = append(oids[n], found{*f.oid, *f.mod})
		if key >= 0 {
			keys[n][key] = *name
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	catalog := pgTypes{q: q, known: maps.Clone(pgFixed)}
	for n := range tables {
		for i, f := range oids[n] {
			c := &tables[n].Columns[i]
			if c.Type, err = catalog.typeOf(ctx, f.oid, f.mod); err != nil {
				return nil, err
			}
		}
		// An int2vector's elements are counted from 0.
		for i := 0; len(keys[n]) > 0 && i <= len(tables[n].Columns); i++ {
			if name, ok := keys[n][i]; ok {
				tables[n].Key = append(tables[n].Key, name)
			}
		}
	}
	return tables, nil
}

// pgTypes reads what the catalog says of types.
type pgTypes struct {
	q     querier
	known map[int64]pgType
}

type pgType struct {
	name, kind   string
	base, mod    int64 // of a domain
	elem         int64 // of an array
	enum, system bool
	labels       []string
}

// vector: it is called an array, and is not written like one.
func (t pgType) vector() bool { return t.name == "int2vector" || t.name == "oidvector" }

func (p pgTypes) get(ctx context.Context, oid int64) (pgType, error) {
	if t, ok := p.known[oid]; ok {
		return t, nil
	}
	var t pgType
	err := p.q.QueryRowContext(ctx, `SELECT typname, typtype::text, typbasetype, typtypmod,
			CASE WHEN typcategory = 'A' AND typelem <> 0 AND typlen = -1 THEN typelem ELSE 0 END, typtype = 'e', typnamespace = 'pg_catalog'::regnamespace
		FROM pg_catalog.pg_type WHERE oid = $1`, oid).Scan(&t.name, &t.kind, &t.base, &t.mod, &t.elem, &t.enum, &t.system)
	if err == nil && t.enum {
		err = each(ctx, p.q, `SELECT enumlabel FROM pg_catalog.pg_enum WHERE enumtypid = $1 ORDER BY enumsortorder`, []any{oid}, func(scan func(...any) error) error {
			var label string
			err := scan(&label)
			t.labels = append(t.labels, label)
			return err
		})
	}
	if err == nil {
		p.known[oid] = t
	}
	return t, err
}

// pgKinds are the types of pg_catalog that have a kind of their own.
var pgKinds = map[string]Type{
	"bool": {Kind: Bool},
	"int2": {Kind: Int, Bits: 16}, "int4": {Kind: Int, Bits: 32}, "int8": {Kind: Int, Bits: 64},
	"float4": {Kind: Float, Bits: 32}, "float8": {Kind: Float, Bits: 64},
	"numeric": {Kind: Numeric},
	"text":    {Kind: Text}, "varchar": {Kind: Text}, "bpchar": {Kind: Text}, "name": {Kind: Text, Len: 63},
	"bytea": {Kind: Bytes}, "uuid": {Kind: UUID},
	"date": {Kind: Date}, "time": {Kind: Time}, "timestamp": {Kind: Timestamp}, "timestamptz": {Kind: TimestampTZ},
	"interval": {Kind: Interval}, "json": {Kind: JSON}, "jsonb": {Kind: JSON, Binary: true},
}

// pgFixed are those of them by the numbers that they have in every database (pg_type.dat): no server need be asked.
var pgFixed = func() map[int64]pgType {
	known := map[int64]pgType{}
	for oid, name := range map[int64]string{
		16: "bool", 17: "bytea", 19: "name", 20: "int8", 21: "int2", 23: "int4", 25: "text", 114: "json", 700: "float4", 701: "float8",
		1042: "bpchar", 1043: "varchar", 1082: "date", 1083: "time", 1114: "timestamp", 1184: "timestamptz", 1186: "interval",
		1700: "numeric", 2950: "uuid", 3802: "jsonb",
	} {
		known[oid] = pgType{name: name, kind: "b", system: true}
	}
	return known
}()

var errDepth = errors.New("a type is made of others without end")

func (p pgTypes) typeOf(ctx context.Context, oid, mod int64) (Type, error) {
	for range 32 { // domains over domains
		t, err := p.get(ctx, oid)
		switch {
		case err != nil:
			return Type{}, err
		case t.kind == "d":
			if oid = t.base; mod < 0 {
				mod = t.mod
			}
			continue
		case t.enum:
			return Type{Kind: Enum, Labels: t.labels}, nil
		case t.elem != 0 && !t.vector():
			elem, err := p.typeOf(ctx, t.elem, mod)
			if err != nil || elem.Kind == Other && (t.name == "_box" || elem.Elem != nil) {
				return Type{Kind: Other}, err
			}
			return Type{Kind: Array, Elem: &elem}, nil
		}
		known, ok := pgKinds[t.name]
		if !ok || !t.system {
			return Type{Kind: Other}, nil
		}
		return known.modified(t.name, mod), nil
	}
	return Type{}, errDepth
}

// modified is a type with its modifier, as the types' own functions read it.
func (t Type) modified(name string, mod int64) Type {
	if mod < 0 {
		return t
	}
	switch {
	case name == "varchar":
		t.Len = int(mod - 4)
	case name == "bpchar":
		t.Len, t.Fixed = int(mod-4), true
	case t.Kind == Numeric:
		t.Precision = int((mod - 4) >> 16 & 0xffff)
		t.Scale = int((mod-4)&0x7ff ^ 1024 - 1024)
		if t.Scale < 0 || t.Scale > t.Precision {
			return Type{Kind: Other} // digits in front of the point are cut, or there is none: rare enough to be left to Postgres
		}
	case t.Kind == Time, t.Kind == Timestamp, t.Kind == TimestampTZ:
		if mod < 6 {
			t.Digits = int(mod) + 1
		}
	case t.Kind == Interval:
		if digits := mod & 0xffff; digits < 6 {
			t.Digits = int(digits) + 1
		}
	}
	return t
}

// postgresSequences reads where the sequences of the schema stand. They are outside of transactions: what was given out
// since the snapshot counts too, which does no harm.
func postgresSequences(ctx context.Context, q querier) (list []Sequence, err error) {
	list, err = sequencesHere(ctx, q)
	for i := range list {
		if err == nil {
			err = q.QueryRowContext(ctx, `SELECT last_value, is_called FROM `+sqltext.Quote(list[i].Name)).Scan(&list[i].Last, &list[i].Called)
		}
	}
	return list, err
}

// sequencesHere reads which sequences the schema has, and whose they are.
func sequencesHere(ctx context.Context, q querier) (list []Sequence, err error) {
	err = each(ctx, q, `SELECT s.relname, COALESCE(t.relname, ''), COALESCE(a.attname, '')
		FROM pg_catalog.pg_class s
		LEFT JOIN pg_catalog.pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = s.oid AND d.refclassid = 'pg_class'::regclass
			AND d.deptype IN ('a', 'i') AND d.refobjsubid > 0
		LEFT JOIN pg_catalog.pg_class t ON t.oid = d.refobjid
		LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = t.oid AND a.attnum = d.refobjsubid
		WHERE s.relkind = 'S' AND s.oid = ANY (`+relationsHere+`) ORDER BY s.relname COLLATE "C"`, nil,
		func(scan func(...any) error) error {
			var s Sequence
			err := scan(&s.Name, &s.Table, &s.Column)
			list = append(list, s)
			return err
		})
	return list, err
}
