package transfer_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/tenancy"
	"github.com/tenement-go/tenement/transfer"
)

// Tables that refer to each other, with triggers, unique constraints, rows of the migrations' own, numbers that are given out.
var blog = files(
	"00001_blog.sqlite.sql", `
CREATE TABLE authors (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, best INTEGER REFERENCES posts (id));
CREATE TABLE posts (id INTEGER PRIMARY KEY AUTOINCREMENT, author INTEGER NOT NULL REFERENCES authors (id) ON DELETE CASCADE, title TEXT NOT NULL,
	made TIMESTAMP NOT NULL, shout TEXT GENERATED ALWAYS AS (upper(title)) STORED, open BOOLEAN NOT NULL DEFAULT TRUE);
CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE log (what TEXT NOT NULL);
INSERT INTO settings VALUES ('theme', 'light'), ('language', 'en');
-- +goose StatementBegin
CREATE TRIGGER posts_log AFTER INSERT ON posts BEGIN INSERT INTO log VALUES ('post ' || new.title); END;
-- +goose StatementEnd
`,
	"00001_blog.postgres.sql", `
CREATE TABLE authors (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL UNIQUE, best bigint);
CREATE TABLE posts (id bigserial PRIMARY KEY, author bigint NOT NULL REFERENCES authors (id) ON DELETE CASCADE, title text NOT NULL,
	made timestamptz NOT NULL, shout text GENERATED ALWAYS AS (upper(title)) STORED, open boolean NOT NULL DEFAULT TRUE);
ALTER TABLE authors ADD CONSTRAINT authors_best FOREIGN KEY (best) REFERENCES posts (id);
COMMENT ON CONSTRAINT authors_best ON authors IS 'a cycle';
CREATE TABLE settings (name text PRIMARY KEY, value text NOT NULL);
CREATE TABLE log (what text NOT NULL);
INSERT INTO settings VALUES ('theme', 'light'), ('language', 'en');
-- +goose StatementBegin
CREATE FUNCTION posts_log() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO log VALUES ('post ' || new.title); RETURN new; END $$;
-- +goose StatementEnd
CREATE TRIGGER posts_log AFTER INSERT ON posts FOR EACH ROW EXECUTE FUNCTION posts_log();
`)

var blogRows = []string{
	`INSERT INTO authors (name) VALUES ('Ann'), ('Bob'), ('Eve')`,
	`INSERT INTO posts (author, title, made) VALUES (1, 'hello', '2024-02-29 10:11:12.123456'), (2, 'O''Brien	\N "x"', '2024-03-01 00:00:00')`,
	`INSERT INTO posts (author, title, made) VALUES (2, 'gone', '2024-03-01 00:00:00')`,
	`UPDATE authors SET best = 1 WHERE id = 1`,
	`DELETE FROM posts WHERE title = 'gone'`,
	`DELETE FROM authors WHERE name = 'Eve'`,
	`DELETE FROM settings WHERE name = 'theme'`,
	`UPDATE settings SET value = 'is' WHERE name = 'language'`,
}

func TestImport(t *testing.T) {
	pairs(t, func(t *testing.T, from, to backend.Dialect) {
		a := newPlace(t, from, blog)
		thor := a.create(t, "thor", blogRows...)
		path, m := a.export(t, thor)
		assert.Equal(t, []string{"authors", "log", "posts", "settings"}, names(m.Tables))

		b := newPlace(t, to, blog)
		moved := b.bring(t, path)
		assert.NotEqual(t, thor.ID, moved.ID)
		assert.Equal(t, "thor", moved.Slug)
		assert.Equal(t, "thor.example", moved.PrimaryDomain())
		assert.Equal(t, []string{"Ann", "Bob"}, b.query(t, moved, `SELECT name FROM authors ORDER BY id`))
		assert.Equal(t, []string{"HELLO", "O'BRIEN	\\N \"X\""}, b.query(t, moved, `SELECT shout FROM posts ORDER BY id`))
		assert.Equal(t, []string{"is"}, b.query(t, moved, `SELECT value FROM settings`))
		assert.Len(t, b.query(t, moved, `SELECT what FROM log`), 3, "the trigger was not in the way")

		// What was taken away is there again.
		b.exec(t, moved, `INSERT INTO posts (author, title, made) VALUES (2, 'after', '2024-03-02 00:00:00')`, `INSERT INTO authors (name) VALUES ('Gil')`)
		assert.Equal(t, []string{"4"}, b.query(t, moved, `SELECT id FROM posts WHERE title = 'after'`), "3 was given out before")
		assert.Equal(t, []string{"4"}, b.query(t, moved, `SELECT id FROM authors WHERE name = 'Gil'`))
		assert.Len(t, b.query(t, moved, `SELECT what FROM log`), 4)
		_, err := b.DB().ExecContext(backend.WithRouter(t.Context(), &moved), `UPDATE authors SET best = 77 WHERE id = 1`)
		assert.Error(t, err, "the foreign keys hold")
		b.exec(t, moved, `UPDATE authors SET best = NULL`, `DELETE FROM authors WHERE id = 2`)
		assert.Equal(t, []string{"hello"}, b.query(t, moved, `SELECT title FROM posts`), "and cascade")
		if to == backend.Postgres {
			assert.Equal(t, []string{"a cycle"}, b.query(t, moved, `SELECT obj_description(oid, 'pg_constraint') FROM pg_constraint
				WHERE conname = 'authors_best' AND connamespace = current_schema()::regnamespace`))
		}

		// The slug, or the domain, is taken: the usual conflict.
		_, err = transfer.Import(t.Context(), b.App, path, transfer.ImportOptions{})
		require.ErrorIs(t, err, tenancy.ErrSlugTaken)
		_, err = transfer.Import(t.Context(), b.App, path, transfer.ImportOptions{Spec: tenancy.Spec{Slug: "loki"}})
		require.ErrorIs(t, err, tenancy.ErrDomainTaken)
		again := b.bring(t, path, transfer.ImportOptions{Spec: tenancy.Spec{Slug: "loki"}, NoDomains: true})
		assert.Empty(t, again.Domains)
		findings, err := b.Doctor(t.Context())
		require.NoError(t, err)
		assert.Empty(t, findings)
	})
}

// A series of numbers goes on where it stands, also where it was put there and has given out none since.
func TestNumbersGoOn(t *testing.T) {
	restart := map[backend.Dialect][]string{
		backend.SQLite:   {`INSERT INTO authors (name) VALUES ('Eve')`, `UPDATE sqlite_sequence SET seq = 0`, `INSERT INTO sqlite_sequence VALUES ('posts', 999)`},
		backend.Postgres: {`INSERT INTO authors (name) VALUES ('Eve')`, `ALTER TABLE authors ALTER id RESTART`, `ALTER SEQUENCE posts_id_seq RESTART WITH 1000`},
	}
	pairs(t, func(t *testing.T, from, to backend.Dialect) {
		a := newPlace(t, from, blog, withPlans)
		thor := a.create(t, "thor", restart[from]...)
		a.exec(t, thor, `DELETE FROM authors`)
		requireNumbers := func(p place, tenant tenancy.Tenant) {
			p.exec(t, tenant, `INSERT INTO authors (name) VALUES ('Ann')`, `INSERT INTO posts (author, title, made) VALUES (1, 'hello', '2024-03-02 00:00:00')`)
			assert.Equal(t, []string{"1"}, p.query(t, tenant, `SELECT id FROM authors`))
			assert.Equal(t, []string{"1000"}, p.query(t, tenant, `SELECT id FROM posts`))
		}
		path, _ := a.export(t, thor)
		b := newPlace(t, to, blog)
		requireNumbers(b, b.bring(t, path))
		c := a.elsewhere(t, placeURL(t, to), to)
		_, err := transfer.Move(t.Context(), a.App, c.App, transfer.MoveOptions{Prepare: true})
		require.NoError(t, err)
		res, err := transfer.Move(t.Context(), a.App, c.App, transfer.MoveOptions{Resume: true})
		require.NoError(t, err)
		require.Len(t, res.Tenants, 1)
		assert.True(t, res.Tenants[0].Same, "what was prepared is as far")
		requireNumbers(c, res.Tenants[0].Tenant)
		requireNumbers(a, thor)
	})
}

func names(tables []transfer.Table) (list []string) {
	for _, t := range tables {
		list = append(list, t.Name)
	}
	return list
}
