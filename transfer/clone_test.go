package transfer_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/tenancy"
	"github.com/tenement-go/tenement/transfer"
)

func onEach(t *testing.T, test func(t *testing.T, d backend.Dialect)) {
	t.Parallel()
	for _, d := range []backend.Dialect{backend.SQLite, backend.Postgres} {
		t.Run(string(d), func(t *testing.T) {
			t.Parallel()
			test(t, d)
		})
	}
}

func TestClone(t *testing.T) {
	onEach(t, func(t *testing.T, d backend.Dialect) {
		a := newPlace(t, d, blog, withFiles(t))
		thor := a.create(t, "thor", blogRows...)
		a.write(t, thor, "pictures/logo.png", "a picture")
		clone, err := transfer.Clone(t.Context(), a.App, thor.ID, transfer.CloneOptions{Spec: tenancy.Spec{Slug: "copy"}})
		require.NoError(t, err)
		assert.NotEqual(t, thor.ID, clone.ID)
		assert.Empty(t, clone.Domains)
		requireSame(t, transfer.InStore(a.App, thor.ID), transfer.InStore(a.App, clone.ID))
		assert.Equal(t, "a picture", a.read(t, clone, "pictures/logo.png"))

		// They are two from now on, and numbers go on.
		a.exec(t, clone, `INSERT INTO posts (author, title, made) VALUES (2, 'after', '2024-03-02 00:00:00')`, `INSERT INTO authors (name) VALUES ('Gil')`)
		assert.Equal(t, []string{"4"}, a.query(t, clone, `SELECT id FROM posts WHERE title = 'after'`))
		assert.Equal(t, []string{"4"}, a.query(t, clone, `SELECT id FROM authors WHERE name = 'Gil'`))
		assert.Empty(t, a.query(t, thor, `SELECT id FROM posts WHERE title = 'after'`))
		_, err = a.DB().ExecContext(backend.WithRouter(t.Context(), &clone), `UPDATE authors SET best = 77 WHERE id = 1`)
		require.Error(t, err)
		_, err = transfer.Clone(t.Context(), a.App, thor.ID, transfer.CloneOptions{Spec: tenancy.Spec{Slug: "copy"}})
		require.ErrorIs(t, err, tenancy.ErrSlugTaken)
		_, err = transfer.Clone(t.Context(), a.App, "0190163d-8694-739b-aea5-966c26f8ad91", transfer.CloneOptions{Spec: tenancy.Spec{Slug: "none"}})
		require.ErrorIs(t, err, tenancy.ErrNotFound)
		require.NoError(t, a.Migrator().Ready(t.Context(), clone.Route()))
		findings, err := a.Doctor(t.Context())
		require.NoError(t, err)
		assert.Empty(t, findings)
	})
}

// A clone's version table goes on with its own numbers: a migration of all stores may come to it before its rows are there.
func TestCloneKeepsItsVersionTable(t *testing.T) {
	t.Parallel()
	a := newPlace(t, backend.Postgres, blog)
	thor := a.create(t, "thor", blogRows...)
	db := a.Backend().Maintenance(thor.Route())
	defer db.Close()
	_, err := db.ExecContext(t.Context(), `SELECT setval('goose_db_version_id_seq', 1)`) // behind what the clone's is
	require.NoError(t, err)
	clone, err := transfer.Clone(t.Context(), a.App, thor.ID, transfer.CloneOptions{Spec: tenancy.Spec{Slug: "copy"}})
	require.NoError(t, err)
	copied := a.Backend().Maintenance(clone.Route())
	defer copied.Close()
	var free bool
	require.NoError(t, copied.QueryRowContext(t.Context(),
		`SELECT nextval('goose_db_version_id_seq') > max(id) FROM goose_db_version`).Scan(&free))
	assert.True(t, free)
}

// A tenant that is migrated while it is cloned is not cloned: at the versions of before, with the rows of after, the clone
// would be migrated once more over them.
func TestCloneOfWhatIsMigratedMeanwhile(t *testing.T) {
	t.Parallel()
	keep := []transfer.Mask{{Table: "*", Column: "*", With: transfer.Keep()}}
	for name, way := range map[string]struct {
		dialect backend.Dialect
		url     string
		masks   []transfer.Mask
	}{
		"on the server":                  {dialect: backend.Postgres},
		"on the server, masked":          {dialect: backend.Postgres, masks: keep},
		"through a file":                 {dialect: backend.SQLite, masks: keep},
		"through a file, a role of each": {dialect: backend.Postgres, url: "&tenant_role=each"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := openPlace(t, placeURL(t, way.dialect)+way.url, way.dialect, blog)
			thor := a.create(t, "thor", blogRows...)
			opt := transfer.CloneOptions{Spec: tenancy.Spec{Slug: "copy"}, Masks: way.masks}
			err := transfer.CloneAfter(t.Context(), a.App, thor, opt, func() {
				db := a.Backend().Maintenance(thor.Route())
				defer db.Close()
				_, err := db.ExecContext(t.Context(), `INSERT INTO goose_db_version (version_id, is_applied) VALUES (99, true)`)
				require.NoError(t, err)
			})
			require.ErrorIs(t, err, transfer.ErrMigrated)
			_, err = a.BySlug(t.Context(), "copy")
			require.ErrorIs(t, err, tenancy.ErrNotFound)
			_, err = a.Backend().Stat(t.Context(), backend.MustParseStore("copy"))
			require.ErrorIs(t, err, backend.ErrStoreMissing)
		})
	}
}

func TestCloneWithMasks(t *testing.T) {
	onEach(t, func(t *testing.T, d backend.Dialect) {
		a := newPlace(t, d, blog)
		thor := a.create(t, "thor", blogRows...)
		masks := []transfer.Mask{
			{Table: "*", Column: "id", With: transfer.Keep()},
			{Table: "authors", Column: "name", With: transfer.Expr(`'author ' || id`)},
			{Table: "authors", Column: "best", With: transfer.Null()},
			{Table: "posts", Column: "title", With: transfer.Const("it's masked")},
			{Table: "posts", Column: "*", With: transfer.Keep()},
			{Table: "log", Column: "*", With: transfer.Const("")},
		}
		opt := transfer.CloneOptions{Spec: tenancy.Spec{Slug: "copy"}, Masks: masks}
		_, err := transfer.Clone(t.Context(), a.App, thor.ID, opt)
		var missing *transfer.UnmaskedError
		require.ErrorAs(t, err, &missing)
		assert.Equal(t, []string{"settings.name", "settings.value"}, missing.Columns)
		_, err = a.BySlug(t.Context(), "copy")
		require.ErrorIs(t, err, tenancy.ErrNotFound)

		opt.Masks = append(masks, transfer.Mask{Table: "settings", Column: "*", With: transfer.Keep()})
		clone, err := transfer.Clone(t.Context(), a.App, thor.ID, opt)
		require.NoError(t, err)
		assert.Equal(t, []string{"author 1", "author 2"}, a.query(t, clone, `SELECT name FROM authors ORDER BY id`))
		assert.Equal(t, []string{"IT'S MASKED", "IT'S MASKED"}, a.query(t, clone, `SELECT shout FROM posts`))
		assert.Equal(t, []string{"is"}, a.query(t, clone, `SELECT value FROM settings`))
		assert.Equal(t, []string{"Ann", "Bob"}, a.query(t, thor, `SELECT name FROM authors ORDER BY id`))

		// A mask that breaks a constraint makes nothing.
		opt.Spec.Slug = "broken"
		opt.Masks = append([]transfer.Mask{{Table: "authors", Column: "name", With: transfer.Const("same")}}, opt.Masks...)
		_, err = transfer.Clone(t.Context(), a.App, thor.ID, opt)
		require.ErrorIs(t, err, transfer.ErrMask)
		_, err = a.BySlug(t.Context(), "broken")
		require.ErrorIs(t, err, tenancy.ErrNotFound)
		_, err = a.Backend().Stat(t.Context(), backend.MustParseStore("broken"))
		require.ErrorIs(t, err, backend.ErrStoreMissing)
	})
}

// Types that the migrations make are another schema's types, and a role of its own reads nobody else's schema.
func TestCloneOwnTypes(t *testing.T) {
	t.Parallel()
	source := files("00001_x.sql", `CREATE TYPE mood AS ENUM ('sad', 'happy'); CREATE TYPE pair AS (a int, b text); CREATE DOMAIN short AS varchar(3);
CREATE TABLE x (id int PRIMARY KEY, m mood, ms mood[], p pair, s short, i inet, n numeric(8,2)[], "Odd name" xml) PARTITION BY RANGE (id);
CREATE TABLE x1 PARTITION OF x FOR VALUES FROM (0) TO (10);
CREATE TABLE x2 PARTITION OF x DEFAULT;
CREATE MATERIALIZED VIEW sums AS SELECT count(*) AS n FROM x;`)
	rows := `INSERT INTO x VALUES (1, 'sad', '{happy,NULL}', '(1,"a,b")', 'abc', '10.0.0.1', '{1.50,2}', '<a>1</a>'), (11, NULL, '{}', NULL, NULL, NULL, '{{1,2},{3,4}}', NULL)`
	for _, roles := range []string{"auto", "each", "off"} {
		t.Run(roles, func(t *testing.T) {
			t.Parallel()
			a := openPlace(t, placeURL(t, backend.Postgres)+"&tenant_role="+roles, backend.Postgres, source)
			thor := a.create(t, "thor", rows)
			clone, err := transfer.Clone(t.Context(), a.App, thor.ID, transfer.CloneOptions{Spec: tenancy.Spec{Slug: "copy"}})
			require.NoError(t, err)
			requireSame(t, transfer.InStore(a.App, thor.ID), transfer.InStore(a.App, clone.ID))
			assert.Equal(t, []string{"2"}, a.query(t, clone, `SELECT n FROM sums`))
			path, _ := a.export(t, thor)
			moved := a.bring(t, path, transfer.ImportOptions{Spec: tenancy.Spec{Slug: "moved"}, NoDomains: true})
			requireSame(t, transfer.InStore(a.App, thor.ID), transfer.InStore(a.App, moved.ID))
			assert.Equal(t, []string{"2"}, a.query(t, moved, `SELECT n FROM sums`))
		})
	}
}

// A big table's indexes are made after its rows: they, and what depends on them, are what the migrations made.
func TestCloneOfBigTable(t *testing.T) {
	t.Parallel()
	a := newPlace(t, backend.Postgres, files("00001_x.sql", `CREATE TABLE x (id bigint PRIMARY KEY, code text NOT NULL, up bigint REFERENCES x, note text,
	CONSTRAINT "one code" UNIQUE (code), CONSTRAINT later UNIQUE (up) DEFERRABLE, EXCLUDE USING btree ((id + 1) WITH =));
CREATE UNIQUE INDEX lower_code ON x (lower(code)) INCLUDE (note) WITH (fillfactor = 70) WHERE id > 0;
CREATE INDEX "Up" ON x (up DESC NULLS LAST);
CREATE UNIQUE INDEX marked ON x (note, id); ALTER TABLE x CLUSTER ON marked;
CREATE TABLE y (id bigint REFERENCES x);
CREATE VIEW v AS SELECT code, note FROM x GROUP BY code, note;
CREATE TABLE heir (more text) INHERITS (x);
CREATE TABLE z (id bigint PRIMARY KEY, note text); CREATE VIEW by_key AS SELECT id, note FROM z GROUP BY id;
COMMENT ON INDEX "Up" IS 'it''s up'; COMMENT ON CONSTRAINT "one code" ON x IS 'a code'; COMMENT ON CONSTRAINT x_pkey ON x IS 'a key';`))
	thor := a.create(t, "thor", `INSERT INTO x SELECT i, 'code ' || i, i, repeat('note', 50) FROM generate_series(1, 25000) s (i)`, `INSERT INTO y VALUES (7)`,
		`INSERT INTO heir (id, code, more) VALUES (1, 'of his own', 'more')`, `INSERT INTO z SELECT i, repeat('note', 50) FROM generate_series(1, 25000) s (i)`)
	clone, err := transfer.Clone(t.Context(), a.App, thor.ID, transfer.CloneOptions{Spec: tenancy.Spec{Slug: "copy"}})
	require.NoError(t, err)
	requireSame(t, transfer.InStore(a.App, thor.ID), transfer.InStore(a.App, clone.ID))
	const indexes = `SELECT concat_ws('; ', replace(pg_get_indexdef(i.indexrelid), current_schema(), 'here'), i.indisclustered, obj_description(i.indexrelid, 'pg_class'))
		FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid WHERE c.relnamespace = current_schema()::regnamespace ORDER BY c.relname`
	const constraints = `SELECT concat_ws('; ', k.conrelid::regclass, k.conname, pg_get_constraintdef(k.oid), obj_description(k.oid, 'pg_constraint'))
		FROM pg_constraint k WHERE k.connamespace = current_schema()::regnamespace ORDER BY k.conrelid::regclass::text, k.conname`
	assert.Len(t, a.query(t, thor, indexes), 9)
	assert.Equal(t, a.query(t, thor, indexes), a.query(t, clone, indexes))
	assert.Equal(t, a.query(t, thor, constraints), a.query(t, clone, constraints))
	// The ones are younger than their table, the others, which something depends on or which say more, as old.
	const younger = `SELECT i.indexrelid::regclass::text FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid WHERE c.relnamespace = current_schema()::regnamespace
		AND i.indexrelid > (SELECT max(oid) FROM pg_class WHERE relnamespace = current_schema()::regnamespace AND relkind = 'v') ORDER BY c.relname COLLATE "C"`
	assert.Equal(t, []string{`"Up"`, "lower_code", `"one code"`, "x_pkey"}, a.query(t, clone, younger))
	assert.Empty(t, a.query(t, thor, younger))

	// Where that saves the log, they are in files that the copy's own transaction has made.
	const anew = `SELECT relname FROM pg_class WHERE relnamespace = current_schema()::regnamespace AND relkind = 'r' AND relfilenode <> oid ORDER BY relname COLLATE "C"`
	if a.query(t, thor, `SHOW wal_level`)[0] == "minimal" {
		assert.Equal(t, []string{"x", "z"}, a.query(t, clone, anew))
	} else {
		assert.Empty(t, a.query(t, clone, anew))
	}

	// What a mask makes alike is found when the index is made, and nothing stays.
	_, err = transfer.Clone(t.Context(), a.App, thor.ID, transfer.CloneOptions{Spec: tenancy.Spec{Slug: "broken"}, Masks: []transfer.Mask{
		{Table: "x", Column: "code", With: transfer.Const("same")}, {Table: "*", Column: "*", With: transfer.Keep()},
	}})
	require.ErrorIs(t, err, transfer.ErrMask)
	assert.ErrorContains(t, err, "table x: ")
	_, err = a.BySlug(t.Context(), "broken")
	require.ErrorIs(t, err, tenancy.ErrNotFound)
	_, err = a.Backend().Stat(t.Context(), backend.MustParseStore("broken"))
	require.ErrorIs(t, err, backend.ErrStoreMissing)
}

// Rules do not make of the rows what they made of them once: the copy has them all, once, and the rules as they were.
func TestCloneRunsNoRules(t *testing.T) {
	t.Parallel()
	a := newPlace(t, backend.Postgres, files("00001_x.sql", `CREATE TABLE audit (what text); CREATE TABLE semi (x int); CREATE TABLE gone (x int);
CREATE TABLE off (x int); CREATE TABLE always (x int); CREATE TABLE parts (x int) PARTITION BY RANGE (x);
CREATE TABLE part PARTITION OF parts DEFAULT;
CREATE RULE r AS ON INSERT TO semi DO ALSO INSERT INTO audit VALUES (new.x::text);
CREATE RULE "no more" AS ON INSERT TO gone DO INSTEAD NOTHING;
CREATE RULE r AS ON INSERT TO off DO INSTEAD NOTHING; ALTER TABLE off DISABLE RULE r;
CREATE RULE r AS ON INSERT TO always DO INSTEAD NOTHING; ALTER TABLE always ENABLE ALWAYS RULE r;
CREATE RULE s AS ON INSERT TO always DO INSTEAD NOTHING; ALTER TABLE always ENABLE REPLICA RULE s;
CREATE RULE r AS ON INSERT TO parts DO INSTEAD NOTHING;
CREATE VIEW v AS SELECT x FROM semi; CREATE RULE r AS ON INSERT TO v DO INSTEAD INSERT INTO semi VALUES (new.x);`))
	thor := a.create(t, "thor", `INSERT INTO semi VALUES (1), (2), (3)`, `INSERT INTO off VALUES (1)`, `INSERT INTO part VALUES (7)`,
		`DO $$ BEGIN ALTER TABLE gone DISABLE RULE "no more"; INSERT INTO gone VALUES (1), (2); ALTER TABLE gone ENABLE RULE "no more"; END $$`,
		`DO $$ BEGIN ALTER TABLE always DISABLE RULE r; INSERT INTO always VALUES (1); ALTER TABLE always ENABLE ALWAYS RULE r; END $$`)
	clone, err := transfer.Clone(t.Context(), a.App, thor.ID, transfer.CloneOptions{Spec: tenancy.Spec{Slug: "copy"}})
	require.NoError(t, err)
	requireSame(t, transfer.InStore(a.App, thor.ID), transfer.InStore(a.App, clone.ID))
	const rules = `SELECT r.ev_class::regclass || ' ' || r.rulename || ' ' || r.ev_enabled::text FROM pg_rewrite r JOIN pg_class c ON c.oid = r.ev_class
		WHERE c.relnamespace = current_schema()::regnamespace ORDER BY 1`
	assert.Len(t, a.query(t, thor, rules), 8)
	assert.Equal(t, a.query(t, thor, rules), a.query(t, clone, rules))
}
