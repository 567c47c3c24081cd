package litestream_test

import (
	"encoding/json"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend/sqlite/litestream"
	"github.com/tenement-go/tenement/manage"
	"github.com/tenement-go/tenement/tenancy"
)

// The commands that manage has for whoever hands it backups.
func TestCommands(t *testing.T) {
	t.Parallel()
	app := open(t, t.TempDir())
	thor := create(t, app, "thor")
	b, stop := replicating(t, app, fileURL(t), quick)
	mustAdd(t, app, thor.ID)
	early := copied(t, b, app, thor.ID)
	mustAdd(t, app, thor.ID)
	late := copied(t, b, app, thor.ID)
	stop()
	all := content(t, app, thor.ID)
	at := func(moment time.Time) string { return "--at=" + moment.Format(time.RFC3339Nano) }
	ok := func(args ...string) string {
		code, out := command(t, b, app, args...)
		require.Equal(t, manage.ExitOK, code, out)
		return out
	}
	wrong := func(args ...string) string {
		code, out := command(t, b, app, args...)
		require.Equal(t, manage.ExitUsage, code, out)
		return out
	}

	table := ok("backup", "status")
	require.Contains(t, table, "TENANT    POSITION          AT")
	require.Contains(t, table, "(shared)  0")
	require.Contains(t, table, "thor      0")
	var lines []struct {
		Tenant, Position string
		Lag              *float64 `json:"lag_seconds"`
		Bytes            int64
	}
	require.NoError(t, json.Unmarshal([]byte(ok("backup", "status", "thor", "--json")), &lines))
	require.Len(t, lines, 1)
	require.Zero(t, *lines[0].Lag)
	require.NotZero(t, lines[0].Bytes)
	create(t, app, "loki")
	code, out := command(t, b, app, "backup", "status")
	require.Equal(t, manage.ExitFailed, code)
	require.Contains(t, out, "there is nothing of 1 store in the backup")
	mustAdd(t, app, thor.ID)
	require.NoError(t, json.Unmarshal([]byte(ok("backup", "status", "thor", "--json")), &lines))
	require.Positive(t, *lines[0].Lag, "it has changed since")

	require.Contains(t, ok("restore", "thor", at(early), "--as", "thor-early"), "made tenant thor-early of what thor was at")
	made, err := app.BySlug(t.Context(), "thor-early")
	require.NoError(t, err)
	require.Equal(t, all[:1], content(t, app, made.ID))
	require.Contains(t, ok("restore", "thor", at(late), "--yes"), "what it had is set aside as aside_thor_")
	require.Equal(t, all, content(t, app, thor.ID))
	require.Contains(t, ok("store", "list"), "aside_thor_")
	file := filepath.Join(t.TempDir(), "thor.db")
	require.Contains(t, ok("restore", string(thor.ID), at(early), "--to", file), "to "+file)
	require.FileExists(t, file)

	require.Contains(t, wrong("restore", "thor"), "--at is missing")
	require.Contains(t, wrong("restore", "thor", "--at", "yesterday"), "is no time such as")
	require.Contains(t, wrong("restore", "thor", at(time.Now().Add(time.Hour))), "is to come")
	require.Contains(t, wrong("restore", at(early)), "name a tenant")
	require.Contains(t, wrong("restore", "--shared", at(early)), "--shared needs --to")
	require.Contains(t, wrong("restore", "thor", at(early)), "--yes")
	code, out = command(t, b, app, "restore", "thor", at(thor.Created.Add(-time.Hour)), "--as", "older")
	require.Equal(t, manage.ExitFailed, code)
	require.Contains(t, out, "nothing from before that moment")
	code, out = command(t, b, app, "restore", "nobody", at(early), "--yes")
	require.Equal(t, manage.ExitFailed, code)
	require.Contains(t, out, "tenant list lists the tenants")
}

// A program without backups has no such commands.
func TestNoCommands(t *testing.T) {
	t.Parallel()
	code, out := command(t, nil, open(t, t.TempDir()), "backup", "status")
	require.Equal(t, manage.ExitUsage, code, out)
}

// A target that cannot be used is refused by its URL.
func TestTargets(t *testing.T) {
	t.Parallel()
	for _, url := range []string{"", "data", "file:data", "file://host/data", "s3:///x", "https://example.com", "file:///a?b=c", "s3://bucket\x7f"} {
		_, err := litestream.New(url, litestream.Config{})
		require.ErrorIs(t, err, litestream.ErrTarget, url)
	}
	for _, url := range []string{"file:///data", "s3://bucket", "s3://bucket/prefix?endpoint=http://localhost:9000&region=eu"} {
		_, err := litestream.New(url, litestream.Config{})
		require.NoError(t, err, url)
	}
	_, err := tenancy.ParseID("shared") // the shared store's name in a target is nobody's ID
	require.Error(t, err)
}
