package backend

import "context"

// Advisor is the ability to say what should be different about a backend that works: a setting that is weaker than it
// could be, or that will hurt as the number of stores grows.
type Advisor interface {
	// Advise returns one sentence for each thing, none when all is well.
	Advise(ctx context.Context) ([]string, error)
}
