package main

import (
	"context"
	"fmt"
	"io"

	"github.com/tenement-go/tenement/tenancy"
)

func command(_ context.Context, _ *tenancy.App, args []string, _ io.Reader, _, stderr io.Writer) int {
	fmt.Fprintf(stderr, "polls: unknown command %q\n", args[0])
	return 2
}
