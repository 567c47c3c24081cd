package polls

// Inside of what the tests look at.
var (
	PrefersHTML   = prefersHTML
	LocalPath     = localPath
	SessionCookie = sessionCookie
)

// APIRoutes lists "METHOD /path/" of what speaks JSON.
func APIRoutes() (all []string) {
	for _, rt := range (&handler{}).routes() {
		if rt.api != nil {
			all = append(all, rt.method+" "+rt.path)
		}
	}
	return all
}
