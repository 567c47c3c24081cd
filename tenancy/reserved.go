package tenancy

import "slices"

// defaultReserved are the names that people take for the provider's own, or that mail, certificates and browsers
// give a meaning to.
var defaultReserved = []string{
	"abuse", "account", "accounts", "admin", "administrator", "api", "app", "apps", "assets", "auth", "autoconfig",
	"autodiscover", "beta", "billing", "blog", "cdn", "console", "dashboard", "demo", "dev", "dns", "docs", "download",
	"email", "ftp", "health", "healthz", "help", "host", "hostmaster", "id", "imap", "info", "internal", "isatap", "localhost",
	"login", "logout", "mail", "manage", "metrics", "monitor", "mta-sts", "mx", "news", "noc", "ns", "ns1", "ns2", "oauth",
	"ops", "pop", "pop3", "postmaster", "preview", "private", "proxy", "register", "root", "sales", "secure", "security",
	"server", "shop", "signin", "signup", "smtp", "sso", "staging", "static", "status", "store", "support", "sysadmin",
	"system", "team", "test", "usenet", "vpn", "webmail", "webmaster", "wpad", "www", "www1", "www2",
}

// DefaultReservedSlugs returns the slugs that are reserved when [Config.ReservedSlugs] is nil, to be added to or taken
// from.
func DefaultReservedSlugs() []string { return slices.Clone(defaultReserved) }

// CheckSlug returns a [*FieldError] when slug cannot be a tenant's slug (see [ValidateSlug]) or is reserved. It does not
// ask whether another tenant has it.
func (a *App) CheckSlug(slug string) error {
	if err := ValidateSlug(slug); err != nil {
		return err
	}
	if slices.Contains(a.cfg.ReservedSlugs, slug) {
		return &FieldError{Field: "slug", Value: slug, Rule: "it is reserved"}
	}
	return nil
}
