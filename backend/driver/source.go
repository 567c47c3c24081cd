package driver

// Sourcer is a backend that gives out what its handles are made of, for one that is made of several.
type Sourcer interface {
	// Source returns the source of the backend's routed, bound and shared handles.
	Source() Source
}
