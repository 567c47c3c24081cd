package driver

// ReadOnly returns src for [NewHandle] and [OpenDB] to make a handle of whose every route is read-only, as
// [backend.Replicator] has one.
func ReadOnly(src Source) Source { return readOnly{src} }

type readOnly struct{ Source }
