package postgres

import (
	"context"
	"net/url"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/tenement-go/tenement/backend"
)

var _ backend.ClientCommander = (*Backend)(nil)

// ClientCommand implements [backend.ClientCommander] with psql: its session's search_path is the store, then public. It
// logs in as the backend does, from the same settings, and has the log-in's rights also where tenant roles are on: what is
// made in it by hand is the role's after SET ROLE, or after [Backend.EnsureRoles]. A
// session of this kind cannot be had through a transaction-mode pooler, which refuses it (PgBouncer: "unsupported
// startup parameter"); connect to the server itself for this.
func (be *Backend) ClientCommand(ctx context.Context, rt backend.Route) (backend.ClientCommand, error) {
	info, err := be.Stat(ctx, rt.Store)
	if err == nil && rt.Owner != "" && info.Owner != rt.Owner {
		err = &backend.Error{Op: "client", Store: rt.Store, Err: backend.ErrStoreMissing}
	}
	if err != nil {
		return backend.ClientCommand{}, err
	}
	return backend.ClientCommand{
		Name: "psql",
		Args: []string{"--set=PROMPT1=" + rt.Store.String() + "@%/%R%x%# "}, // a user's own in .psqlrc comes after it
		Env:  clientEnv(be.pool.Config().ConnConfig, rt.Store),
	}, nil
}

// clientEnv is a configuration of pgx's as libpq's variables. The connection string itself is no argument for psql:
// other users could see the password, and it may hold options that libpq does not know.
func clientEnv(cc *pgx.ConnConfig, s backend.Store) []string {
	hosts, ports := []string{cc.Host}, []string{strconv.Itoa(int(cc.Port))}
	for _, f := range cc.Fallbacks {
		// Each host is there once with TLS and once without, where sslmode leaves the choice.
		if last := len(hosts) - 1; f.Host != hosts[last] || strconv.Itoa(int(f.Port)) != ports[last] {
			hosts, ports = append(hosts, f.Host), append(ports, strconv.Itoa(int(f.Port)))
		}
	}
	env := []string{
		"PGHOST=" + strings.Join(hosts, ","), "PGPORT=" + strings.Join(ports, ","),
		"PGUSER=" + cc.User, "PGDATABASE=" + cc.Database, "PGSSLMODE=" + sslMode(cc),
	}
	if cc.Password != "" {
		env = append(env, "PGPASSWORD="+cc.Password)
	}
	given := settings(cc.ConnString())
	for _, v := range []struct{ setting, name string }{
		{"sslrootcert", "PGSSLROOTCERT"},
		{"sslcert", "PGSSLCERT"},
		{"sslkey", "PGSSLKEY"},
		{"sslsni", "PGSSLSNI"},
		{"channel_binding", "PGCHANNELBINDING"},
		{"connect_timeout", "PGCONNECT_TIMEOUT"},
		{"target_session_attrs", "PGTARGETSESSIONATTRS"},
	} {
		if value := given[v.setting]; value != "" {
			env = append(env, v.name+"="+value)
		}
	}
	options := cc.RuntimeParams["options"]
	for name, value := range cc.RuntimeParams {
		switch name {
		case "options", "search_path":
		case "application_name":
			env = append(env, "PGAPPNAME="+value)
		default:
			options += " -c " + escapeOption(name+"="+value)
		}
	}
	options += " -c " + escapeOption("search_path="+quote(s.String())+",public")
	return append(env, "PGOPTIONS="+strings.TrimSpace(options))
}

// escapeOption keeps the server from splitting an option at its spaces.
func escapeOption(text string) string {
	return strings.NewReplacer(`\`, `\\`, " ", `\ `).Replace(text)
}

// sslMode says which sslmode made pgx come to this configuration.
func sslMode(cc *pgx.ConnConfig) string {
	choice := false // another attempt on the same host, with TLS or without
	for _, f := range cc.Fallbacks {
		choice = choice || f.Host == cc.Host && f.Port == cc.Port && (f.TLSConfig == nil) != (cc.TLSConfig == nil)
	}
	switch tls := cc.TLSConfig; {
	case tls == nil && choice:
		return "allow"
	case tls == nil:
		return "disable"
	case choice:
		return "prefer"
	case !tls.InsecureSkipVerify:
		return "verify-full"
	case tls.VerifyPeerCertificate != nil || tls.VerifyConnection != nil:
		return "verify-ca"
	}
	return "require"
}

// settings reads a connection string that pgx has accepted, a URL or a keyword DSN.
func settings(connString string) map[string]string {
	found := map[string]string{}
	if strings.HasPrefix(connString, "postgres://") || strings.HasPrefix(connString, "postgresql://") {
		if u, err := url.Parse(connString); err == nil {
			for name := range u.Query() {
				found[name] = u.Query().Get(name)
			}
		}
		return found
	}
	for rest := connString; ; {
		name, after, ok := strings.Cut(rest, "=")
		if !ok {
			return found
		}
		var value string
		value, rest = dsnValue(strings.TrimLeft(after, " \t\n\r"))
		found[strings.TrimSpace(name)] = value
	}
}

// dsnValue splits the value at the beginning of a keyword DSN from the rest.
func dsnValue(text string) (value, rest string) {
	quoted := strings.HasPrefix(text, "'")
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c == '\\' && i+1 < len(text):
			i++
			b.WriteByte(text[i])
		case quoted && i == 0:
		case quoted && c == '\'', !quoted && strings.IndexByte(" \t\n\r", c) >= 0:
			return b.String(), text[i+1:]
		default:
			b.WriteByte(c)
		}
	}
	return b.String(), ""
}
