package manage_test

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/tenement-go/tenement/backend"
	"github.com/tenement-go/tenement/manage"
)

// noBackups are backups that no call may get as far as.
type noBackups struct{ manage.Backups }

// What says how a tenant is to be made goes with one that is made.
func TestRestoreMakesNoTenant(t *testing.T) {
	t.Parallel()
	p := newPlace(t, backend.SQLite)
	p.must(t, "migrate")
	p.must(t, "tenant", "create", "thor")
	for _, flag := range [][]string{{"--place", "x"}, {"--domain", "x.example"}, {"--name", "X"}, {"--meta", "plan=pro"}, {"--reserved"}} {
		for _, where := range [][]string{{"thor", "--yes"}, {"thor", "--to", "thor.db"}, {"--shared", "--to", "shared.db"}} {
			args := append([]string{"restore", "--at", "2026-01-01T00:00:00Z"}, append(where, flag...)...)
			c := p.run(t, &call{args: args, options: []manage.Option{manage.WithBackups(noBackups{})}})
			assert.Equal(t, manage.ExitUsage, c.status, args)
			assert.Contains(t, c.stderr.String(), flag[0]+" is about the tenant that --as makes", args)
		}
	}
}
