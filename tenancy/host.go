package tenancy

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"unicode/utf8"

	"golang.org/x/net/idna"
)

// ErrMalformedHost means that the text cannot be the name of a host. A server answers 400.
var ErrMalformedHost = errors.New("malformed host")

// Lengths of a DNS name and of a label of it, in bytes.
const (
	maxHostLen  = 253
	maxLabelLen = 63
	// maxRawHostLen bounds what is looked at, before IDNA makes it shorter or longer.
	maxRawHostLen = 4 * maxHostLen
)

// NormalizeHost returns the one spelling of host under which tenants are registered and looked up: lower case, without
// port, trailing dot and the brackets of an IPv6 address, in ASCII (IDNA). Everything else is kept: "www.a.example" and
// "a.example" are two hosts. It returns an error that wraps [ErrMalformedHost] for what cannot be a host name. A host
// that is in that spelling already costs no allocation.
func NormalizeHost(host string) (string, error) {
	if name, ok := trimHost(host); ok && isNormal(name) {
		return name, nil
	}
	return normalizeSlow(host)
}

// trimHost cuts port and trailing dot off; ok is false when host needs a closer look.
func trimHost(host string) (name string, ok bool) {
	if len(host) > maxHostLen+len(":65535.") {
		return "", false
	}
	if i := strings.IndexByte(host, ':'); i >= 0 {
		if !isPort(host[i+1:]) {
			return "", false
		}
		host = host[:i]
	}
	return strings.TrimSuffix(host, "."), true
}

// isPort accepts the empty port too, as RFC 3986 does.
func isPort(s string) bool {
	if len(s) > 5 {
		return false
	}
	n := 0
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
		n = n*10 + int(s[i]-'0')
	}
	return n <= 65535
}

// isNormal reports whether name is a DNS name in lower case whose labels follow the rules for host names, or an IPv4
// address. A name that ends in a number is one or is refused, as in URLs: "1.2.3.4.5" is no host.
func isNormal(name string) bool {
	if name == "" || len(name) > maxHostLen {
		return false
	}
	start, digits := 0, true
	for i := range len(name) + 1 {
		if i < len(name) {
			c := name[i]
			if c >= 'a' && c <= 'z' || c == '-' {
				digits = false
				continue
			}
			if c >= '0' && c <= '9' {
				continue
			}
			if c != '.' {
				return false
			}
		}
		if n := i - start; n == 0 || n > maxLabelLen || name[start] == '-' || name[i-1] == '-' {
			return false
		}
		if i == len(name) {
			break
		}
		start, digits = i+1, true
	}
	if digits {
		addr, err := netip.ParseAddr(name)
		return err == nil && addr.Is4()
	}
	return true
}

func normalizeSlow(host string) (string, error) {
	switch {
	case host == "":
		return "", malformed(host, "it is empty")
	case len(host) > maxRawHostLen:
		return "", malformed(host, "it is too long")
	case !utf8.ValidString(host):
		return "", malformed(host, "it is not UTF-8")
	}
	if host[0] == '[' || strings.Count(host, ":") > 1 {
		return normalizeIPv6(host)
	}
	name, port, _ := strings.Cut(host, ":")
	if !isPort(port) {
		return "", malformed(host, "what follows the colon is not a port")
	}
	for i := range len(name) {
		if c := name[i]; c < utf8.RuneSelf && !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '.') {
			return "", malformed(host, fmt.Sprintf("byte %d is not a letter, a digit, '-' or '.'", i+1))
		}
	}
	// The profile for looking names up maps case and width, and refuses what a browser refuses.
	ascii, err := idna.Lookup.ToASCII(name)
	if err != nil {
		if isASCII(name) {
			// Names such as "ab--cd" are no IDNs and not wrong as host names; they only need their case folded.
			ascii = strings.ToLower(name)
		} else {
			return "", malformed(host, err.Error())
		}
	}
	ascii = strings.TrimSuffix(ascii, ".")
	if !isNormal(ascii) {
		return "", malformed(host, fmt.Sprintf("its labels must have 1 to %d letters, digits and inner hyphens, and all of it at most %d bytes",
			maxLabelLen, maxHostLen))
	}
	return ascii, nil
}

func normalizeIPv6(host string) (string, error) {
	text := host
	if host[0] == '[' {
		inner, rest, found := strings.Cut(host[1:], "]")
		if !found || rest != "" && (rest[0] != ':' || !isPort(rest[1:])) {
			return "", malformed(host, "an address in brackets may only be followed by a port")
		}
		text = inner
	}
	addr, err := netip.ParseAddr(text)
	if err != nil || !addr.Is6() || addr.Zone() != "" {
		return "", malformed(host, "it is not an IPv6 address")
	}
	return addr.String(), nil
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

// parseDomain is [NormalizeHost] for a host that is to be registered. It is stricter: punycode must be what its
// Unicode form encodes to, or the tenant could not be reached by the name that people type.
func parseDomain(host string) (string, error) {
	name, err := NormalizeHost(host)
	if err != nil {
		return "", &FieldError{Field: "domain", Value: host, Rule: "it must be a host name: " + reasonOf(err), err: err}
	}
	if strings.HasPrefix(name, "xn--") || strings.Contains(name, ".xn--") {
		if again, err := idna.Lookup.ToASCII(name); err != nil || again != name {
			return "", &FieldError{Field: "domain", Value: host, Rule: "it holds punycode that encodes no valid name", err: ErrMalformedHost}
		}
	}
	return name, nil
}

// hostError is the refusal of a host.
type hostError struct{ host, reason string }

func malformed(host, reason string) error {
	if len(host) > maxHostLen {
		host = host[:maxHostLen] + "…"
	}
	return &hostError{host, reason}
}

func (e *hostError) Error() string {
	return fmt.Sprintf("tenement: malformed host %q: %s", e.host, e.reason)
}
func (e *hostError) Is(target error) bool { return target == ErrMalformedHost }

func reasonOf(err error) string {
	var h *hostError
	if errors.As(err, &h) {
		return h.reason
	}
	return err.Error()
}

// stripWWW returns host without a leading "www.", unless nothing but a single label would be left.
func stripWWW(host string) string {
	if rest, ok := strings.CutPrefix(host, "www."); ok && strings.Contains(rest, ".") {
		return rest
	}
	return host
}

// HostRulesError says that hosts in the registry are not spelled as they would be registered now, because the rules for
// normalising them changed ([Config.IgnoreWWW], a new version). [Open] returns it and serves nobody: a host that is
// looked up by another spelling than it has would be free for another tenant to take. Where other processes go by other
// rules since, what would register a host returns it, without Hosts, and registers nothing.
type HostRulesError struct {
	Hosts []string // as the registry has them, at most ten
	Rule  string   // what to do
}

// Error names the hosts.
func (e *HostRulesError) Error() string {
	if len(e.Hosts) == 0 {
		return "tenement: hosts are spelled by other rules by now than they were when this App was opened; " + e.Rule
	}
	return fmt.Sprintf("tenement: open: hosts of tenants are spelled by other rules than are in force: %s; %s",
		strings.Join(e.Hosts, ", "), e.Rule)
}

// otherHostRules is the refusal to register a host by rules that are not in force any more.
func otherHostRules() error {
	return &HostRulesError{Rule: "start this process anew, with the version and the Config.IgnoreWWW of the others"}
}

// hostRules identifies the rules by which hosts are spelled.
func (c Config) hostRules() string {
	return fmt.Sprintf("1 www=%t idna=%s", c.IgnoreWWW, idna.UnicodeVersion)
}

// checkHostRules makes sure that the registry's hosts are spelled as they are looked up, and has nobody register one by other
// rules from then on.
func (a *App) checkHostRules(ctx context.Context) error {
	fault := func(err error) error { return fmt.Errorf("tenement: open: check the registry's hosts: %w", err) }
	var known string
	if err := a.reg.db.QueryRowContext(ctx, `SELECT host_rules FROM tenement_revision WHERE id = 1`).Scan(&known); err != nil {
		return fault(err)
	}
	if known == a.reg.hostRules {
		return nil
	}
	tx, err := a.reg.db.BeginTx(ctx, nil)
	if err != nil {
		return fault(err)
	}
	defer tx.Rollback() //nolint:errcheck // it was committed, or failed for a reason that is returned
	// First: who registers a host writes this row too, and so has done it before the hosts are read, or does it by these rules.
	if _, err := tx.ExecContext(ctx, `UPDATE tenement_revision SET host_rules = $1 WHERE id = 1`, a.reg.hostRules); err != nil {
		return fault(err)
	}
	wrong, err := a.misspelled(ctx, tx)
	if err != nil {
		return fault(err)
	}
	if len(wrong) > 0 {
		rule := "remove them with a version that knows them, and add them again"
		if a.cfg.IgnoreWWW {
			rule = "switch IgnoreWWW off, replace the hosts that begin with www. by those without, and switch it on again"
		}
		return &HostRulesError{Hosts: wrong[:min(len(wrong), 10)], Rule: rule}
	}
	if err := tx.Commit(); err != nil {
		return fault(err)
	}
	return nil
}

// misspelled lists the hosts that would be registered by another spelling.
func (a *App) misspelled(ctx context.Context, q querier) (wrong []string, err error) {
	rows, err := q.QueryContext(ctx, `SELECT host FROM tenement_domains ORDER BY host`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var host string
		if err := rows.Scan(&host); err != nil {
			return nil, err
		}
		if !a.spells(host) {
			wrong = append(wrong, host)
		}
	}
	return wrong, rows.Err()
}

// spells reports whether host is spelled as it is looked up.
func (a *App) spells(host string) bool {
	name, err := a.domain(host)
	return err == nil && name == host
}
