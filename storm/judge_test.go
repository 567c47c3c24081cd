package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/tenancy"
	"github.com/tenement-go/tenement/transfer"
)

// What a migration has to leave in a store is missed, each of it, and what it left twice is seen.
func TestJudgeCountsMigrations(t *testing.T) {
	onEach(t, testMigrations)
}

// onEach runs a test over both backends.
func onEach(t *testing.T, test func(t *testing.T, st *stage)) {
	if testing.Short() {
		t.Skip("starts a server")
	}
	for _, name := range []string{"sqlite", "postgres"} {
		t.Run(name, func(t *testing.T) {
			_, err := onStage(t.Context(), name, func(st *stage) (none struct{}, _ error) {
				test(t, st)
				return none, nil
			})
			require.NoError(t, err)
		})
	}
}

func testMigrations(t *testing.T, st *stage) {
	const version = 6
	app, closeAll, err := open(t.Context(), st.direct, version)
	require.NoError(t, err)
	defer func() { require.NoError(t, closeAll()) }()
	for i, c := range []struct {
		statement string
		reported  string // nothing, when it is ""
	}{
		{"SELECT 1", ""},
		{"DELETE FROM migrated WHERE version = 5", "lost: migration 5: its statements: 0 times"},
		{"INSERT INTO migrated (version) VALUES (5)", "wrong: migration 5: its statements: 2 times"},
		{"INSERT INTO migrated (version) VALUES (7)", "wrong: migration 7: its statements: 1 times"},
		{"DELETE FROM goose_db_version WHERE version_id = 2", "lost: migration 2: its version row: 0 times"},
		{"DROP INDEX entries_c3", "lost: migration 3: its index: 0 times"},
		{"ALTER TABLE entries DROP COLUMN c5", "lost: migrations: their columns"},
	} {
		made, err := app.Create(t.Context(), tenancy.Spec{Slug: fmt.Sprintf("t%d", i)})
		require.NoError(t, err)
		judged := newCourt(app, &record{}, &verdict{}, version)
		require.NoError(t, app.Run(t.Context(), made.ID, tenancy.Policy{}, func(ctx context.Context, in *tenancy.Tenant) error {
			if _, err := app.DB().ExecContext(ctx, c.statement); err != nil {
				return err
			}
			return judged.store(ctx, in)
		}))
		if c.reported == "" {
			assert.Empty(t, judged.v.Breaches)
			continue
		}
		require.Len(t, judged.v.Breaches, 1, c.statement)
		kind, what, _ := strings.Cut(c.reported, ": ")
		assert.True(t, strings.HasPrefix(judged.v.Breaches[0], kind+": "), judged.v.Breaches[0])
		assert.Contains(t, judged.v.Breaches[0], what)
	}
}

// serving is a server without users.
func serving(t *testing.T, st *stage) (s *server, end func()) {
	app, closeAll, err := open(t.Context(), st.direct, 1)
	require.NoError(t, err)
	j, err := openJournal(st.dir, 1)
	require.NoError(t, err)
	s = &server{order: order{Tenants: 10}, j: j, app: app, errors: map[string]int{}}
	s.crowd.Store(&[]tenancy.Tenant{})
	return s, func() { require.NoError(t, closeAll()) }
}

// requireBreaches judges, and requires that a breach begins with each of the texts, and that there are none of clean tenants.
func requireBreaches(t *testing.T, st *stage, texts []string, clean tenancy.ID) {
	v, err := judge(t.Context(), st.direct, st.dir, 1)
	require.NoError(t, err)
	for _, text := range texts {
		assert.True(t, slices.ContainsFunc(v.Breaches, func(b string) bool { return strings.HasPrefix(b, text) }), "%s: %q", text, v.Breaches)
	}
	assert.NotContains(t, strings.Join(v.Breaches, "\n"), string(clean))
}

// What was in a tenant's store is judged although the tenant was purged.
func TestJudgeOfThePurged(t *testing.T) { onEach(t, testPurged) }

func testPurged(t *testing.T, st *stage) {
	s, end := serving(t, st)
	var clean tenancy.ID
	var expected []string
	for i, c := range []struct{ fault, reported string }{
		{"DELETE FROM entries WHERE write_id = WRITE", "lost: write WRITE of tenant TENANT"},
		{"UPDATE entries SET write_id = REFUSED WHERE write_id = 0", "wrong: tenant TENANT (SLUG, read before a purge) has write REFUSED, which was rolled back"},
		{"UPDATE entries SET write_id = WRITE WHERE write_id = 0", "wrong: tenant TENANT (SLUG, read before a purge) has write WRITE in 2 rows"},
		{"DELETE FROM entries WHERE write_id = 0", "lost: tenant TENANT (SLUG, read before a purge) has not the one row"},
		{"", ""},
	} {
		made, err := s.app.Create(t.Context(), tenancy.Spec{Slug: fmt.Sprintf("t%d", i)})
		require.NoError(t, err)
		require.NoError(t, s.app.Run(t.Context(), made.ID, tenancy.Policy{}, func(ctx context.Context, in *tenancy.Tenant) error {
			v := &visit{actor: newActor(s, s.rng(i)), t: in}
			var acknowledged, refused uint64
			if err := v.writing(1, func(id uint64) error { acknowledged = id; return v.put(ctx, v.db(), id, 0) }); err != nil {
				return err
			}
			if err := v.writing(1, func(id uint64) error { refused = id; return errNever }); err != nil {
				return err
			}
			if c.fault == "" {
				clean = in.ID
				return nil
			}
			words := strings.NewReplacer("WRITE", fmt.Sprint(acknowledged), "REFUSED", fmt.Sprint(refused), "TENANT", string(in.ID), "SLUG", in.Slug)
			expected = append(expected, words.Replace(c.reported))
			_, err := v.db().ExecContext(ctx, words.Replace(c.fault))
			return err
		}))
		require.NoError(t, (&keeper{s: s, rng: s.rng(i)}).purge(t.Context(), made, false))
	}
	end()
	requireBreaches(t, st, expected, clean)
}

// A clone whose creation took up one that had failed has the rows of another from then on. Who has not heard of it yet purges
// it: what it reads before is a clone's.
func TestJudgeOfAClaimedClone(t *testing.T) { onEach(t, testClaimed) }

func testClaimed(t *testing.T, st *stage) {
	s, end := serving(t, st)
	other, closeOther, err := open(t.Context(), st.direct, 1)
	require.NoError(t, err)
	defer func() { require.NoError(t, closeOther()) }()
	from, err := other.Create(t.Context(), tenancy.Spec{Slug: "from"})
	require.NoError(t, err)
	_, err = other.Create(t.Context(), tenancy.Spec{Slug: "to"})
	require.NoError(t, err)
	_, err = other.Shared().ExecContext(t.Context(), "UPDATE tenement_tenants SET status = 'failed' WHERE slug = 'to'")
	require.NoError(t, err)
	failed, err := s.app.BySlug(t.Context(), "to")
	require.NoError(t, err)
	require.Equal(t, tenancy.Failed, failed.Status)
	made, err := transfer.Clone(t.Context(), other, from.ID, transfer.CloneOptions{Spec: tenancy.Spec{Slug: "to", Name: cloneOf + string(from.ID)}})
	require.NoError(t, err)
	require.Equal(t, failed.ID, made.ID)
	require.NoError(t, (&keeper{s: s, rng: s.rng(1)}).purge(t.Context(), failed, false))
	end()
	requireBreaches(t, st, nil, made.ID)
}

// A change of a tenant that was acknowledged, and that the registry has not, is seen.
func TestJudgeOfChanges(t *testing.T) { onEach(t, testChanges) }

func testChanges(t *testing.T, st *stage) {
	s, end := serving(t, st)
	var clean tenancy.ID
	var expected []string
	for i, c := range []struct{ fault, reported string }{ // after it was read-only for a moment
		{"status = 'read-only', version = version - 1", "lost: of tenant %s version 4 was acknowledged"},
		{"status = 'suspended'", "lost: of tenant %s version 4 was acknowledged"},
		{"slug = 'another'", "lost: of tenant %s version 4 was acknowledged"},
		{"slug = 'a-third', version = version + 1", ""}, // by somebody who did not hear of it
	} {
		made, err := s.app.Create(t.Context(), tenancy.Spec{Slug: fmt.Sprintf("t%d", i)})
		require.NoError(t, err)
		require.NoError(t, (&keeper{s: s, rng: s.rng(i)}).readOnly(t.Context(), made))
		_, err = s.app.Shared().ExecContext(t.Context(), "UPDATE tenement_tenants SET "+c.fault+" WHERE id = $1", string(made.ID))
		require.NoError(t, err)
		if clean = made.ID; c.reported != "" {
			expected = append(expected, fmt.Sprintf(c.reported, made.ID))
		}
	}
	end()
	requireBreaches(t, st, expected, clean)
}

// ofTheAbsent is what is said of tenants that are not there.
func ofTheAbsent(t *testing.T, dir string) *verdict {
	r, err := readJournals(dir)
	require.NoError(t, err)
	v := &verdict{Writes: len(r.writes), Breaches: r.breaches}
	newCourt(nil, r, v, 1).absent(map[string]bool{})
	return v
}

// A reading has all that was acknowledged before, in whatever process, and says nothing of what came later.
func TestJudgeGoesByTheLastReading(t *testing.T) {
	const thor, welcome = tenancy.ID("thor"), 0
	whole := func(w uint64, parts int64) found { return found{int64(w), parts, parts} }
	for name, c := range map[string]struct {
		rows     func(acknowledged, refused, unknown uint64) []found
		breaches []string
	}{
		"all":             {func(a, _, _ uint64) []found { return []found{whole(a, 2)} }, nil},
		"and the unknown": {func(a, _, u uint64) []found { return []found{whole(a, 2), whole(u, 1)} }, nil},
		"nothing":         {func(_, _, _ uint64) []found { return nil }, []string{"lost: write"}},
		"a part":          {func(a, _, _ uint64) []found { return []found{{int64(a), 1, 1}} }, []string{"wrong: tenant thor", "lost: write"}},
		"twice":           {func(a, _, _ uint64) []found { return []found{{int64(a), 4, 2}} }, []string{"wrong: tenant thor", "lost: write"}},
		"the refused":     {func(a, n, _ uint64) []found { return []found{whole(a, 2), whole(n, 1)} }, []string{"wrong: tenant thor"}},
		"another's":       {func(a, _, _ uint64) []found { return []found{whole(a, 2), whole(a+1000, 1)} }, []string{"wrong: tenant thor"}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			writer, err := openJournal(dir, 0)
			require.NoError(t, err)
			purger, err := openJournal(dir, 1)
			require.NoError(t, err)
			acknowledged, refused, unknown := writer.begin("thor", 2), writer.begin("thor", 1), writer.begin("thor", 1)
			writer.end(acknowledged, lineAck)
			writer.end(refused, lineNever)
			writer.end(writer.begin("odin", 1), lineAck) // whom nobody could read
			began := time.Now().UnixNano()
			writer.end(writer.begin("thor", 1), lineAck)
			require.NoError(t, purger.reading(content{
				Tenant: thor, Slug: "thor", Began: began, Purged: true,
				Rows: map[string][]found{"thor": append(c.rows(acknowledged, refused, unknown), found{welcome, 1, 1})},
			}))
			for _, id := range []tenancy.ID{thor, "odin"} {
				purger.note(linePurging, string(id))
				purger.asked(id)
				purger.note(lineGone, string(id))
			}
			v := ofTheAbsent(t, dir)
			require.Len(t, v.Breaches, len(c.breaches), "%q", v.Breaches)
			for i, text := range c.breaches {
				assert.Contains(t, v.Breaches[i], text)
			}
			assert.Equal(t, 3, v.Judged, "of five")
		})
	}
}

// A purge that was asked for excuses that a tenant is gone, unless somebody saw it alive when that was over.
func TestJudgeOfWhoIsGone(t *testing.T) {
	const id = tenancy.ID("thor")
	purging := func(j *journal) { j.note(linePurging, string(id)) }
	over := func(j *journal) { j.asked(id) }
	gone := func(j *journal) { j.note(lineGone, string(id)) }
	version := int64(0)
	is := func(status tenancy.Status, began time.Time) func(*journal) {
		return func(j *journal) {
			version++
			j.changed(tenancy.Tenant{ID: id, Slug: "thor", Version: version, Status: status}, began)
		}
	}
	before, later := time.Now(), time.Now().Add(time.Hour)
	made := is(tenancy.Active, before)
	for name, c := range map[string]struct {
		lines []func(*journal)
		lost  bool
	}{
		"nobody purged it":     {[]func(*journal){made}, true},
		"its creation failed":  {[]func(*journal){is(tenancy.Failed, before)}, false},
		"killed while purging": {[]func(*journal){made, purging, is(tenancy.Active, later)}, false},
		"the purge failed":     {[]func(*journal){made, purging, over}, false},
		"deleted after that":   {[]func(*journal){made, purging, over, is(tenancy.Deleted, later)}, false},
		"restored meanwhile":   {[]func(*journal){made, purging, over, is(tenancy.Active, before)}, false},
		"restored after that":  {[]func(*journal){made, purging, over, is(tenancy.Active, later)}, true},
		"and purged once more": {[]func(*journal){made, purging, over, is(tenancy.Active, later), purging}, false},
		"two purged it":        {[]func(*journal){made, purging, purging, over, is(tenancy.Active, later)}, false},
		"purged, as is known":  {[]func(*journal){made, purging, over, gone}, false},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			j, err := openJournal(dir, 0)
			require.NoError(t, err)
			for _, line := range c.lines {
				line(j)
			}
			v := ofTheAbsent(t, dir)
			if !c.lost {
				assert.Empty(t, v.Breaches)
				return
			}
			require.Len(t, v.Breaches, 1)
			assert.Contains(t, v.Breaches[0], "lost: tenant thor was in service")
		})
	}
}
