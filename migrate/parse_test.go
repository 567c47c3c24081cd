package migrate

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

// A text is read by goose once, whatever its file is called; one that the environment goes into each time.
func TestParsedOnce(t *testing.T) {
	const text = "-- +goose NO TRANSACTION\n-- +goose Up\nCREATE TABLE parsed_once (x INTEGER);\n-- +goose Down\nDROP TABLE parsed_once;\n"
	for i := range 3 {
		m := &migration{version: int64(i + 1), file: fmt.Sprintf("0000%d_x.sql", i+1)}
		require.NoError(t, m.parse([]byte(text)))
		require.Equal(t, []string{"CREATE TABLE parsed_once (x INTEGER);"}, m.up)
		require.Equal(t, []string{"DROP TABLE parsed_once;"}, m.down)
		require.False(t, m.tx)
		allocated := testing.AllocsPerRun(10, func() { _ = m.parse([]byte(text)) })
		require.Less(t, allocated, 20.0, "goose takes hundreds")
	}
	for _, table := range []string{"a", "b"} {
		t.Setenv("PARSED_ONCE", table)
		m := &migration{version: 1, file: "00001_x.sql"}
		require.NoError(t, m.parse([]byte("-- +goose Up\n-- +goose ENVSUB ON\nDROP TABLE ${PARSED_ONCE};\n")))
		require.Equal(t, []string{"DROP TABLE " + table + ";"}, m.up)
		require.True(t, m.tx)
	}
	m := &migration{version: 1, file: "00001_x.sql"}
	for range 2 {
		require.Error(t, m.parse([]byte("-- +goose Sideways\n")))
	}
}
