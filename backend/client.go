package backend

import "context"

// ClientCommander is the ability to open a store in a client program (psql, sqlite3).
type ClientCommander interface {
	// ClientCommand returns how to start a client on rt's store, with the shared tables beside it, for an operator: it
	// has no stricter rights than the backend's own log-in, or file, has. It returns ErrStoreMissing when there is no
	// such store, or when it is not rt.Owner's. Nothing secret is among the arguments, which other users of the machine
	// can see.
	ClientCommand(ctx context.Context, rt Route) (ClientCommand, error)
}

// ClientCommand is a program to be run on a terminal.
type ClientCommand struct {
	Name string   // the program, to be looked up in PATH
	Args []string // its arguments
	Env  []string // NAME=VALUE, to be added to the environment; may hold a password
}
