package postgres

import "github.com/tenement-go/tenement/backend"

// Native is a handle that speaks pgx, routed by context or bound to a store.
type Native struct {
	be     *Backend
	fixed  backend.Route
	access backend.Access
}
