package backend

import "context"

// Advisor is the ability to say what should be different about a backend that works: a setting that is weaker than it
// could be, that will hurt as the number of stores grows, or that stores made before do not have yet.
type Advisor interface {
	// Advise returns what is to be said, nothing when all is well.
	Advise(ctx context.Context) ([]Advice, error)
	// Mend does what the advice says that it can do. It is safe to call again, and goes on after a store that fails; the
	// errors are joined.
	Mend(ctx context.Context) error
}

// Advice is one thing that should be different.
type Advice struct {
	Text string // one sentence
	Mend string // what [Advisor.Mend] does about it; empty when only an operator can do something
}
