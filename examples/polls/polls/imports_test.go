package polls_test

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The application knows a *sql.DB. Nothing that it is made of knows tenants, the stores they are in, or a driver.
func TestKnowsNothingOfTenants(t *testing.T) {
	t.Parallel()
	for _, pkg := range []string{".", "../site", "../page", "../limit", "../client"} {
		out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", pkg).Output()
		require.NoError(t, err)
		deps := strings.Fields(string(out))
		require.Contains(t, deps, "time", "this list is not one of dependencies")
		for _, dep := range deps {
			ours := strings.HasPrefix(dep, "github.com/tenement-go/tenement") &&
				!strings.HasPrefix(dep, "github.com/tenement-go/tenement/examples/polls/")
			driver := strings.HasPrefix(dep, "github.com/jackc/") || strings.HasPrefix(dep, "modernc.org/")
			assert.False(t, ours || driver, "%s must not depend on %s", pkg, dep)
		}
	}
}
