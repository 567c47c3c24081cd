package tenantctx_test

import (
	"testing"

	"golang.org/x/tools/go/analysis/analysistest"

	"github.com/tenement-go/tenement/tenantctx"
)

func Test(t *testing.T) {
	t.Parallel()
	analysistest.Run(t, analysistest.TestData(), tenantctx.Analyzer, "a", "b")
}
