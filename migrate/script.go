package migrate

// script is the text of a plan.
type script struct{}

// traits tells whether a migration may be sent as text, and whether its outcome may differ between stores.
func (m *migration) traits(d dialect, text []byte) (asText, varies bool) {
	return false, true
}
