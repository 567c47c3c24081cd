package migrate

import (
	"bytes"
	"context"
	"testing"
	"testing/fstest"
	"time"

	"github.com/pressly/goose/v3"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
)

// gooseReading is what goose itself makes of a file.
type gooseReading struct {
	up, down []string
	tx       bool
	refusal  string
}

// readByGoose asks a provider that is made as an application without this package makes one.
func readByGoose(t *testing.T, name string, text []byte) (r gooseReading) {
	rec, store := &recorder{}, &scriptedStore{}
	db := rec.open()
	defer func() { require.NoError(t, db.Close()) }()
	p, err := goose.NewProvider(goose.DialectCustom, db, fstest.MapFS{name: {Data: text}}, goose.WithStore(store), goose.WithDisableGlobalRegistry(true))
	require.NoError(t, err)
	if _, err := p.ApplyVersion(context.Background(), 1, true); err != nil {
		return gooseReading{refusal: err.Error()}
	}
	r.up, r.tx = rec.statements, rec.began
	rec.statements, store.applied = nil, true
	if _, err := p.ApplyVersion(context.Background(), 1, false); err != nil {
		return gooseReading{refusal: err.Error()}
	}
	r.down = rec.statements
	return r
}

// What goose takes is taken with the same statements, or refused with the line; what goose refuses is refused. What goose
// is to run instead of a file is that file, behind a statement of ours. A file into which the environment goes is known as one.
func FuzzGooseFile(f *testing.F) {
	for _, text := range []string{
		"-- +goose Up\nCREATE TABLE a (x INTEGER);\n-- +goose Down\nDROP TABLE a;\n",
		"--+goose UP\r\nSELECT 1;\r\n--  +goose  down\r\nSELECT 2;\r\n",
		"-- +goose NO TRANSACTION\n-- +goose Up\nBEGIN;\nSELECT 1;\nCOMMIT;\n",
		"-- +goose Up\n-- +goose StatementBegin\nSELECT 1;\nSELECT 2;\n-- +goose StatementEnd\nSELECT 3; -- why\n-- +goose Down\n",
		"-- +goose Up\n-- +goose ENVSUB ON\nSELECT '${TENEMENT_FUZZ}';\n-- +goose ENVSUB OFF\nSELECT '$TENEMENT_FUZZ';\n",
		"-- +goose ENV--SUB ON\n-- +goose Up\nSELECT '${TENEMENT_FUZZ}';\n",
		"-- +goose Up\nSELECT 1\n;\n\nSAVEPOINT s;\nSET search_path = x;\n", "-- +goose Up", "-- +goose Down\n", "\xef\xbb\xbf-- +goose Up\n", "-- +goose Up\nRESET ROLE;\n", "",
	} {
		f.Add([]byte(text))
	}
	const name = "00001_a.sql"
	f.Fuzz(func(t *testing.T, text []byte) {
		if len(text) > 2000 {
			t.Skip("goose is asked line by line")
		}
		t.Setenv("TENEMENT_FUZZ", "other")
		other := readByGoose(t, name, text)
		t.Setenv("TENEMENT_FUZZ", "value")
		want := readByGoose(t, name, text)
		if !substitutes(text) {
			require.Equal(t, want, other, "the environment is part of it")
		}
		for _, d := range []backend.Dialect{backend.SQLite, backend.Postgres} {
			own, err := dialectOf(d, time.Second)
			require.NoError(t, err)
			for _, kind := range []Set{SetShared, SetTenant} {
				var faults []error
				s := newSet(own, kind, []Source{{Name: "app", FS: fstest.MapFS{name: {Data: text}}}}, nil, &faults)
				for _, err := range faults {
					var fault *SourceError
					require.ErrorAs(t, err, &fault)
					require.Equal(t, name, fault.File)
					require.NotEmpty(t, fault.Reason)
					require.LessOrEqual(t, fault.Line, 1+bytes.Count(text, []byte("\n")))
					if !substitutes(text) { // else the statement may stand nowhere in the file
						require.Positive(t, fault.Line, fault.Reason)
					}
				}
				if len(faults) > 0 {
					continue
				}
				require.Empty(t, want.refusal)
				m := s.find("app").find(1)
				require.Equal(t, want, gooseReading{up: m.up, down: m.down, tx: m.tx})
				run := readByGoose(t, name, s.find("app").running[name])
				require.Equal(t, want.tx, run.tx)
				if own.begin != "" && len(run.up) > len(want.up) {
					require.Equal(t, own.begin, run.up[0])
					run.up = run.up[1:]
				}
				if own.begin != "" && len(run.down) > len(want.down) {
					require.Equal(t, own.begin, run.down[0])
					run.down = run.down[1:]
				}
				require.Equal(t, append([]string{}, want.up...), append([]string{}, run.up...))
				require.Equal(t, append([]string{}, want.down...), append([]string{}, run.down...))
			}
		}
	})
}
