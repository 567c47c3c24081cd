package manage_test

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/manage"
)

// A tenant is taken from each backend to the other by commands alone.
func TestTransfer(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, p *place) {
		other := newPlace(t, backend.Postgres)
		if p.backend().Dialect() == backend.Postgres {
			other = newPlace(t, backend.SQLite)
		}
		p.must(t, "migrate")
		other.must(t, "migrate")
		p.must(t, "tenant", "create", "thor", "--domain", "thor.example")
		p.must(t, "exec", "thor", "--", "ask", "why?", "how?")
		file := filepath.Join(t.TempDir(), "thor.db")
		assert.Equal(t, "wrote thor to "+file+": 2 tables, 2 rows, 0 files\n", p.must(t, "tenant", "export", "thor", file))
		assert.Equal(t, "made tenant thor of "+file+" at thor.example\n", other.must(t, "tenant", "import", file))
		assert.Equal(t, "why?\nhow?\n", other.must(t, "exec", "thor", "--", "questions"))
		const same = "TABLE  ROWS  ROWS THERE  RESULT\npolls  2     2           same\nusers  0     0           same\n"
		assert.Equal(t, same, other.must(t, "tenant", "verify", "thor", file))
		other.must(t, "tenant", "import", file, "--slug", "copy", "--no-domains")
		assert.Equal(t, same, other.must(t, "tenant", "verify", "thor", "copy"))

		assert.Equal(t, "made tenant masked, a copy of thor at m.example\n", other.must(t, "tenant", "clone", "thor", "masked", "--domain", "m.example",
			"--mask", "polls.question='question ' || id", "--keep", "*.id", "--keep", "users.*"))
		assert.Equal(t, "question 1\nquestion 2\n", other.must(t, "exec", "masked", "--", "questions"))
		other.must(t, "tenant", "clone", "thor", "again")
		assert.Equal(t, same, other.must(t, "tenant", "verify", "thor", "again"))

		other.must(t, "exec", "copy", "--", "ask", "when?")
		c := other.run(t, &call{args: []string{"tenant", "verify", "thor", "copy"}})
		assert.Equal(t, manage.ExitFailed, c.status)
		assert.Equal(t, "TABLE  ROWS  ROWS THERE  RESULT\npolls  2     3           differs\nusers  0     0           same\n", c.stdout.String())
		assert.Equal(t, "app: thor and copy: they differ\n", c.stderr.String())

		assert.Regexp(t, `^copy has the tables of .*; what it had is set aside as aside_copy_[0-9a-f]{8}\n$`, other.must(t, "tenant", "import", file, "--into", "copy"))
		assert.Equal(t, same, other.must(t, "tenant", "verify", "thor", "copy"))

		for want, args := range map[string][]string{
			"is taken":                  {"tenant", "import", file},
			"is not TABLE.COLUMN=WHAT":  {"tenant", "import", file, "--slug", "x", "--allow", "polls"},
			"none of the others can be": {"tenant", "import", file, "--into", "copy", "--slug", "x"},
			"[into place]":              {"tenant", "import", file, "--into", "copy", "--place", "x"},
			"none of digits":            {"tenant", "import", file, "--slug", "x", "--allow", "polls.id=all"},
			"file already exists":       {"tenant", "export", "thor", file},
			"--into is empty":           {"tenant", "import", file, "--into", ""},
			"not to standard output":    {"tenant", "export", "thor", "-"},
			"[polls.question]":          {"tenant", "clone", "thor", "x", "--mask", "users.name='x'", "--keep", "polls.id"},
			"is not TABLE.COLUMN=EXPRE": {"tenant", "clone", "thor", "x", "--mask", "users"},
			"is not TABLE.COLUMN":       {"tenant", "clone", "thor", "x", "--keep", "users.name=1"},
			"no file that a tenant was": {"tenant", "import", "transfer_test.go"},
		} {
			c := other.run(t, &call{args: args})
			assert.NotZero(t, c.status, args)
			assert.Contains(t, c.stderr.String(), want, args)
		}
	})
}
