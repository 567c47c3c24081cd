package transfer_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/migrate"
	"github.com/tenement-go/tenement/tenancy"
	"github.com/tenement-go/tenement/transfer"
)

// wholeFile is the file of a tenant with rows and a file, and a place that could take it.
func wholeFile(f *testing.F) (content []byte, to place) {
	a := newPlace(f, backend.SQLite, blog, withFiles(f))
	thor := a.create(f, "thor", blogRows...)
	a.write(f, thor, "logo.png", "a picture")
	path, _ := a.export(f, thor)
	content, err := os.ReadFile(path)
	require.NoError(f, err)
	return content, newPlace(f, backend.SQLite, blog, withFiles(f))
}

// Whatever bytes of a file are not those that were written, it is refused as a file that is none, or is damaged, and
// nothing is made.
func FuzzTransferFile(f *testing.F) {
	whole, to := wholeFile(f)
	for _, c := range []struct {
		at    uint32
		patch string
	}{
		{0, "SQLite format 4"},
		{16, "\x00\x01"},
		{18, "\x02\x02"},
		{24, "\xff"},
		{28, "\x00\x00\x00\x01"},
		{44, "\x09"},
		{52, "\x01"},
		{56, "\x00\x00\x00\x02"},
		{60, "\x7f"},
		{68, "else"},
		{100, "\x02"},
		{103, "\xff\xff"},
		{105, "\x00\x00"},
		{5000, "\x00\x00\x00\x00"},
		{uint32(len(whole)), "and more"},
	} {
		f.Add(c.at, []byte(c.patch), uint32(0))
	}
	for _, cut := range []uint32{1, 99, 100, 4096, uint32(len(whole) - 1)} {
		f.Add(uint32(0), []byte(nil), cut)
	}
	f.Fuzz(func(t *testing.T, at uint32, patch []byte, cut uint32) {
		content := bytes.Clone(whole)
		from := int(at) % (len(content) + 1)
		content = append(content[:from], append(bytes.Clone(patch), content[min(len(content), from+len(patch)):]...)...)
		if cut > 0 {
			content = content[:int(cut)%len(content)]
		}
		if bytes.Equal(content, whole) {
			t.Skip("it is as it was written")
		}
		path := filepath.Join(t.TempDir(), "file.db")
		require.NoError(t, os.WriteFile(path, content, 0o600))
		_, err := transfer.Import(t.Context(), to.App, path, transfer.ImportOptions{})
		var fault *transfer.FileError
		require.ErrorAs(t, err, &fault)
		require.Equal(t, path, fault.Path)
		require.True(t, isAny(err, transfer.ErrNotTransferFile, transfer.ErrFormat, transfer.ErrDamaged), "%v", err)
		to.requireNothing(t)
	})
}

// A manifest that says something else, in a file whose sums are right, is refused with an error that has a name, and then
// nothing is made; or what it says can be done, and is done.
func FuzzManifest(f *testing.F) {
	whole, to := wholeFile(f)
	for _, change := range [][2]string{
		{`"format":1`, `"format":0`},
		{`"dialect":"sqlite"`, `"dialect":"postgres"`},
		{`"dialect":"sqlite"`, `"dialect":"x"`},
		{`"slug":"thor"`, `"slug":"public"`},
		{`"slug":"thor"`, `"slug":""`},
		{`"host":"thor.example"`, `"host":"a..b"`},
		{`"sources":[`, `"sources":[null,`},
		{`"tables":[`, `"tables":[{},`},
		{`"tables":[`, `"tables":null,"x":[`},
		{`"name":"posts"`, `"name":"POSTS"`},
		{`"name":"posts"`, `"name":"tenement_seal"`},
		{`"rows":2`, `"rows":-1`},
		{`"kind":"text"`, `"kind":"array"`},
		{`"kind":"any"`, `"kind":"array","elem":{"kind":"int"}`},
		{`"last":3`, `"last":-9223372036854775808`},
		{`"count":1`, `"count":9223372036854775807`},
		{`"count":1`, `"count":-1`},
		{`"generated":true`, `"generated":false`},
		{`"key":["id"]`, `"key":["nothing"]`},
		{`"name":"title"`, `"name":"title","stored":"body"`},
		{`"without":[`, `"without":["posts",`},
		{`"meta":{`, `"meta":[{`},
		{"", ""},
		{"", "null"},
		{"", "{}"},
		{"", `{"format":1,"dialect":"sqlite"}`},
	} {
		f.Add(change[0], change[1])
	}
	f.Fuzz(func(t *testing.T, was, is string) {
		path := filepath.Join(t.TempDir(), "file.db")
		require.NoError(t, os.WriteFile(path, whole, 0o600))
		if !forgeManifest(t, path, was, is) {
			t.Skip("it is as it was written")
		}
		tenant, err := transfer.Import(t.Context(), to.App, path, transfer.ImportOptions{})
		if err == nil {
			_, err := to.Delete(t.Context(), tenant.ID)
			require.NoError(t, err)
			require.NoError(t, to.Purge(t.Context(), tenant.ID))
			to.requireNothing(t)
			return
		}
		var version *migrate.VersionError
		require.True(t, errors.As(err, &version) || isAny(err, transfer.ErrNotTransferFile, transfer.ErrFormat, transfer.ErrDamaged, transfer.ErrSchema,
			transfer.ErrValue, migrate.ErrUnknownSource, tenancy.ErrInvalid, tenancy.ErrConflict), "%v", err)
		to.requireNothing(t)
	})
}

func isAny(err error, targets ...error) bool {
	for _, target := range targets {
		if errors.Is(err, target) {
			return true
		}
	}
	return false
}

// forgeManifest puts another manifest into a file, and the sums right. It reports whether anything changed.
func forgeManifest(t *testing.T, path, was, is string) bool {
	ctx := context.Background()
	db, err := sql.Open("sqlite", path+"?_pragma=synchronous(off)")
	require.NoError(t, err)
	var old string
	require.NoError(t, db.QueryRowContext(ctx, "SELECT manifest FROM tenement_manifest").Scan(&old))
	forged := is
	if was != "" {
		forged = strings.Replace(old, was, is, 1)
	}
	sum := sha256.Sum256([]byte(forged))
	mark := hex.EncodeToString(sum[:])
	_, err = db.ExecContext(ctx, "UPDATE tenement_manifest SET manifest = $1, sha256 = $2", forged, mark)
	require.NoError(t, err)
	mark = hex.EncodeToString([]byte(rand.Text() + rand.Text()))[:2*sha256.Size]
	_, err = db.ExecContext(ctx, "UPDATE tenement_seal SET sha256 = $1", mark)
	require.NoError(t, err)
	require.NoError(t, db.Close())
	content, err := os.ReadFile(path)
	require.NoError(t, err)
	at := bytes.Index(content, []byte(mark))
	require.GreaterOrEqual(t, at, 0)
	clear(content[at : at+len(mark)])
	sum = sha256.Sum256(content)
	copy(content[at:], hex.EncodeToString(sum[:]))
	require.NoError(t, os.WriteFile(path, content, 0o600))
	return forged != old
}
