// Command tenantctx is the check of package tenantctx for go vet -vettool.
package main

import (
	"golang.org/x/tools/go/analysis/unitchecker"

	"github.com/tenement-go/tenement/tenantctx"
)

func main() { unitchecker.Main(tenantctx.Analyzer) }
