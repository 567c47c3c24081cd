// Command pgrun runs a command with a Postgres cluster of its own: it starts one, runs its arguments with
// TENEMENT_TEST_POSTGRES set to the URL of the superuser, stops the cluster, and exits with the command's exit code.
// Arguments NAME=VALUE ahead of the command are settings of the server.
//
//	go run ./internal/pgtest/pgrun fsync=off go test ./...
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"

	"github.com/tenement-go/tenement/internal/pgtest"
)

func main() {
	command := slices.IndexFunc(os.Args[1:], func(arg string) bool { return !strings.Contains(arg, "=") }) + 1
	if command == 0 {
		fmt.Fprintln(os.Stderr, "usage: pgrun [NAME=VALUE…] COMMAND [ARGUMENT…]")
		os.Exit(2)
	}
	code, err := run(os.Args[1:command], os.Args[command:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "pgrun:", err)
	}
	os.Exit(code)
}

func run(settings, args []string) (code int, err error) {
	ctx, stop := signal.NotifyContext(context.Background(), signals...)
	defer stop()
	cluster, err := pgtest.Start(ctx, settings...)
	if err != nil {
		return 1, err
	}
	defer func() {
		if stopErr := cluster.Stop(); stopErr != nil && err == nil {
			code, err = max(code, 1), stopErr
		}
	}()

	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Env = append(os.Environ(), pgtest.EnvURL+"="+cluster.AdminURL())
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	err = cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() >= 0 {
		return exit.ExitCode(), nil // the command has said why
	}
	if err != nil {
		return 1, err
	}
	return 0, nil
}
