// Package tenantctx finds code that loses the tenant: calls on a handle of database/sql without a context, which fail with
// ErrNoTenant on a routed one, and contexts that are made anew where the request's is at hand.
//
//	go install github.com/tenement-go/tenement/tenantctx/cmd/tenantctx@latest
//	go vet -vettool=$(which tenantctx) ./...
//
// It also finds a driver for SQLite that cannot be in one program with package backend/sqlite.
//
// A line that is meant says so: //tenantctx:ignore, at its end or on the line above, with the reason.
package tenantctx

import (
	"go/ast"
	"go/token"
	"go/types"
	"strings"

	"golang.org/x/tools/go/analysis"
	"golang.org/x/tools/go/analysis/passes/inspect"
	"golang.org/x/tools/go/ast/inspector"
)

// Analyzer is the check.
var Analyzer = &analysis.Analyzer{
	Name:     "tenantctx",
	Doc:      "report database calls without a context, new contexts where the request's is at hand, and drivers that are in each other's way",
	URL:      "https://pkg.go.dev/github.com/tenement-go/tenement/tenantctx",
	Requires: []*analysis.Analyzer{inspect.Analyzer},
	Run:      run,
}

// contextless are the methods of database/sql that have a counterpart with a context, by their types. Those of a Tx are
// not among them: a transaction has its tenant.
var contextless = map[string]map[string]string{
	"DB": {
		"Begin": "BeginTx", "Exec": "ExecContext", "Query": "QueryContext", "QueryRow": "QueryRowContext",
	},
	"Stmt": {"Exec": "ExecContext", "Query": "QueryContext", "QueryRow": "QueryRowContext"},
}

// namesakes are packages whose driver is registered under the name of modernc.org/sqlite's.
var namesakes = map[string]bool{"github.com/glebarez/sqlite": true, "github.com/glebarez/go-sqlite": true}

func run(pass *analysis.Pass) (any, error) {
	ignored := ignoredLines(pass)
	report := func(at ast.Node, format string, args ...any) {
		if p := pass.Fset.Position(at.Pos()); !ignored[p.Filename][p.Line] {
			pass.Reportf(at.Pos(), format, args...)
		}
	}
	for _, file := range pass.Files {
		for _, spec := range file.Imports {
			if path := strings.Trim(spec.Path.Value, `"`); namesakes[path] {
				report(spec, "%s has a driver named sqlite, as backend/sqlite has (modernc.org/sqlite): the program panics at start; use gorm.io/driver/sqlite", path)
			}
		}
	}
	in := pass.ResultOf[inspect.Analyzer].(*inspector.Inspector)
	in.WithStack([]ast.Node{(*ast.CallExpr)(nil)}, func(n ast.Node, push bool, stack []ast.Node) bool {
		call := n.(*ast.CallExpr)
		fn, ok := callee(pass.TypesInfo, call)
		if !push || !ok || fn.Pkg() == nil || strings.HasSuffix(pass.Fset.Position(call.Pos()).Filename, "_test.go") {
			return true
		}
		switch fn.Pkg().Path() {
		case "database/sql":
			if with := contextless[receiver(fn)][fn.Name()]; with != "" {
				report(call, "%s.%s has no context, and so no tenant: use %s", receiver(fn), fn.Name(), with)
			}
		case "context":
			if fn.Name() != "Background" && fn.Name() != "TODO" {
				break
			}
			if from := atHand(pass.TypesInfo, stack); from != "" {
				report(call, "context.%s has no tenant: use %s, or context.WithoutCancel of it for what outlives the request", fn.Name(), from)
			}
		}
		return true
	})
	return nil, nil
}

func callee(info *types.Info, call *ast.CallExpr) (*types.Func, bool) {
	var id *ast.Ident
	switch f := ast.Unparen(call.Fun).(type) {
	case *ast.Ident:
		id = f
	case *ast.SelectorExpr:
		id = f.Sel
	default:
		return nil, false
	}
	fn, ok := info.Uses[id].(*types.Func)
	return fn, ok
}

// receiver is the name of the type that a method is of; empty for a function.
func receiver(fn *types.Func) string {
	recv := fn.Signature().Recv()
	if recv == nil {
		return ""
	}
	t := recv.Type()
	if p, ok := t.(*types.Pointer); ok {
		t = p.Elem()
	}
	if named, ok := t.(*types.Named); ok {
		return named.Obj().Name()
	}
	return ""
}

// atHand says how the context is called that a function around the call was given: that of its parameters, innermost
// first, a context.Context or an *http.Request. It is empty where there is none.
func atHand(info *types.Info, stack []ast.Node) string {
	for i := len(stack) - 1; i >= 0; i-- {
		var params *ast.FieldList
		switch f := stack[i].(type) {
		case *ast.FuncLit:
			params = f.Type.Params
		case *ast.FuncDecl:
			params = f.Type.Params
		default:
			continue
		}
		for _, field := range params.List {
			for _, name := range field.Names {
				if name.Name == "_" {
					continue
				}
				switch types.TypeString(info.TypeOf(field.Type), nil) {
				case "context.Context":
					return name.Name
				case "*net/http.Request":
					return name.Name + ".Context()"
				}
			}
		}
	}
	return ""
}

// ignoredLines are those with a comment that says that they are meant, and the lines below such.
func ignoredLines(pass *analysis.Pass) map[string]map[int]bool {
	lines := map[string]map[int]bool{}
	for _, file := range pass.Files {
		for _, group := range file.Comments {
			for _, c := range group.List {
				if !strings.HasPrefix(c.Text, "//tenantctx:ignore") {
					continue
				}
				p := position(pass, c.Pos())
				if lines[p.Filename] == nil {
					lines[p.Filename] = map[int]bool{}
				}
				lines[p.Filename][p.Line], lines[p.Filename][p.Line+1] = true, true
			}
		}
	}
	return lines
}

func position(pass *analysis.Pass, at token.Pos) token.Position { return pass.Fset.Position(at) }
