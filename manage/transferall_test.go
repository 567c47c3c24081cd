package manage_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/manage"
)

// One command takes all tenants from each backend to each.
func TestTransferAll(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, p *place) {
		for _, d := range []backend.Dialect{backend.SQLite, backend.Postgres} {
			p := newPlace(t, p.backend().Dialect())
			other := newPlace(t, d)
			p.must(t, "migrate")
			for _, slug := range []string{"thor", "odin", "loki"} {
				p.must(t, "tenant", "create", slug, "--domain", slug+".example")
			}
			p.must(t, "exec", "thor", "--", "ask", "why?", "how?")
			p.must(t, "tenant", "suspend", "loki", "--reason", "the bill")
			assert.Regexp(t, `^TENANT  ROWS  RESULT  READ-ONLY FOR\nthor +2 +copied +[0-9.]+m?s\nodin +0 +copied +[0-9.]+m?s\nloki +0 +copied +-\n`+
				`3 tenants are there, and not in service yet; app transfer --to URL --resume goes on\n$`, p.must(t, "transfer", "--to", other.url(), "--prepare"))
			c := p.run(t, &call{args: []string{"transfer", "--to", other.url()}})
			assert.Equal(t, manage.ExitFailed, c.status)
			assert.Contains(t, c.stderr.String(), "app transfer --to URL --resume goes on with it")
			p.must(t, "exec", "odin", "--", "ask", "who?")
			assert.Regexp(t, `\nthor +2 +there already +[0-9.]+m?s\nodin +1 +copied +[0-9.]+m?s\nloki +0 +there already +-\n`+
				`3 tenants are in service there; what is here stays as it was\n$`, p.must(t, "transfer", "--to", other.url(), "--resume"))
			assert.Equal(t, "why?\nhow?\n", other.must(t, "exec", "thor", "--", "questions"))
			assert.Equal(t, "who?\n", other.must(t, "exec", "odin", "--", "questions"))
			assert.Equal(t, p.must(t, "tenant", "list"), other.must(t, "tenant", "list"))
			p.must(t, "exec", "thor", "--", "ask", "still?")
			for want, args := range map[string][]string{
				"--to is missing":       {"transfer"},
				"--tenant is empty":     {"transfer", "--to", other.url(), "--tenant", ""},
				"is taken by tenant":    {"transfer", "--to", other.url(), "--tenant", "thor"},
				"is the place that the": {"transfer", "--to", p.url()},
				"no such tenant":        {"transfer", "--to", other.url(), "--tenant", "hel"},
				"TABLE.COLUMN=WHAT":     {"transfer", "--to", other.url(), "--allow", "x"},
			} {
				c := p.run(t, &call{args: args})
				require.NotZero(t, c.status, args)
				assert.Contains(t, c.stderr.String(), want, args)
			}
		}
	})
}
