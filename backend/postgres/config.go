package postgres

import (
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/tenement-go/tenement/backend"
)

// Config adjusts a backend. The zero value of each field means its default. A parameter of the URL, named behind each
// field, wins over the field.
type Config struct {
	// TenantRole says with whose rights tenants' work is done: what runs on the routed handle, on handles bound to a
	// store, on [Backend.Maintenance] handles, and the SQL of scripts. See the package's documentation. It is one of
	//
	//   - "auto": one role for all tenants, made when the backend is opened unless it is there. Where the log-in may not
	//     make it, and it is not there, roles are off, with one warning.
	//   - "off": the log-in's.
	//   - "each": a role for each tenant. It keeps SQL that names another tenant's schema out of it. It is for hundreds
	//     of tenants, not for thousands: after every sign-up each connection works out anew of which roles the log-in
	//     is a member. The first statement afterwards took 205 ms longer with 10,000 roles on Postgres 15 (20 to 30 ms
	//     on 18), 5 ms with 1,000.
	//   - any other text: the name of a role that is there, that the log-in is a member of, for all tenants.
	//
	// Defaults to "auto". URL: tenant_role.
	TenantRole string
	// AffinityWait is for how long a unit of work waits for a connection that has its store in its caches before it takes
	// another; see "Ten thousand tenants" in the package's documentation. Where statements take so long that a dozen of them
	// take longer, it is as long as those, but not more than four times as long as it says. Less than 0 means not at all:
	// any connection serves any store. So it is behind a pooler. Defaults to [DefaultAffinityWait]. URL: affinity_wait,
	// where 0 means not at all.
	AffinityWait time.Duration
	// FirstSights is after how many pairs of store and text, run on it for the first time, a connection is closed, when
	// another has been opened in its place. A process of the server keeps what it has read of the catalog for each, and
	// never lets go of it: it takes about
	//
	//	5 MB + FirstSights × 12.5 KB + TenantStatements × 9 KB, or 16 KB
	//
	// where texts use one table with two indexes (measured on Postgres 15); with larger ones set it lower. A statement takes
	// 16 KB from when the server, after five executions, keeps a plan for any values of its parameters. Defaults to
	// [DefaultFirstSights]: 126 to 140 MB. While no more than an eighth as many pairs are in use, all connections may see them
	// all (but no more than 65,536). Behind a pooler the server's connections are not ours to close: use its server_lifetime.
	// URL: first_sights.
	FirstSights int
	// TenantStatements bounds the prepared statements that a connection keeps for single stores, in the query mode
	// cache_statement. A statement's plan is only good for the store that it was made for, and making a new one costs the
	// server more than the rest of a point read; so a connection that alternates between stores keeps one of each, the
	// least recently used going first. Each takes the server 9 to 16 KB. Less than 0 means none: every change of store
	// costs a new plan. Defaults to [DefaultTenantStatements]. URL: tenant_statements, where 0 means none.
	TenantStatements int
	// Reset says when a connection is cleaned before another store uses it: of settings, temporary tables, cursors, locks,
	// LISTENs and what lastval returns. Statements whose text says that they leave something are always cleaned up after;
	// this is about what functions, views, defaults, triggers and the like do out of sight. It is one of
	//
	//   - "auto": at each change of store, on direct connections. It takes the server about 10 µs, and no round trip.
	//   - "always": behind a pooler too, for one that gives each connection a server connection of its own (session pooling).
	//   - "off", for databases whose code is known to leave nothing, and where lastval is not used.
	//
	// A lent pool's connections are not cleaned but closed, and only for what is said in the text. Behind a pooler the
	// server's connections are not ours to clean: give it a reset query (PgBouncer: server_reset_query_always).
	// Defaults to "auto". URL: reset.
	Reset string
	// Replicas are the URLs of servers that follow this one, for [Backend.Replica]: streaming standbys, directly or through a
	// pooler. They have this configuration's other fields, and options in their own URLs; whose rights tenants' work has is
	// as on the primary. None need be up when the backend is opened. URL: replica, one or several, escaped
	// (replica=postgres%3A%2F%2F…), or in a keyword DSN one value with spaces between them.
	Replicas []string
	// Logger gets the warnings of the backend. Defaults to [slog.Default].
	Logger *slog.Logger
}

const (
	// DefaultAffinityWait is the default of [Config.AffinityWait].
	DefaultAffinityWait = 5 * time.Millisecond
	// DefaultFirstSights is the default of [Config.FirstSights].
	DefaultFirstSights = 8192
	// DefaultTenantStatements is how many prepared statements a connection keeps for single stores, unless
	// [Config.TenantStatements] says otherwise.
	DefaultTenantStatements = 2048
)

// The values of [Config.Reset].
const (
	resetAuto   = "auto"
	resetAlways = "always"
	resetOff    = "off"
)

// The values of [Config.TenantRole] that are not the name of a role.
const (
	roleAuto = "auto"
	roleOff  = "off"
	roleEach = "each"
)

// withDefaults returns cfg filled in.
func (cfg Config) withDefaults() (Config, error) {
	if cfg.TenantRole == "" {
		cfg.TenantRole = roleAuto
	}
	if err := checkRole(cfg.TenantRole); err != nil {
		return cfg, err
	}
	switch cfg.Reset {
	case "":
		cfg.Reset = resetAuto
	case resetAuto, resetAlways, resetOff:
	default:
		return cfg, fmt.Errorf("%w: reset=%q is not one of auto, always, off", backend.ErrInvalidURL, cfg.Reset)
	}
	switch {
	case cfg.AffinityWait == 0:
		cfg.AffinityWait = DefaultAffinityWait
	case cfg.AffinityWait < 0:
		cfg.AffinityWait = 0
	}
	if cfg.FirstSights <= 0 {
		cfg.FirstSights = DefaultFirstSights
	}
	switch {
	case cfg.TenantStatements == 0:
		cfg.TenantStatements = DefaultTenantStatements
	case cfg.TenantStatements < 0:
		cfg.TenantStatements = 0
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	return cfg, nil
}

// checkRole refuses what cannot be the name of a role for tenants.
func checkRole(name string) error {
	switch {
	case strings.HasPrefix(name, "pg_"), name == "none", name == "public", len(name) > maxRoleName, strings.ContainsRune(name, 0),
		name == "on", name == "true", name == "false":
		return fmt.Errorf("%w: tenant_role=%q is not auto, off, each or the name of a role", backend.ErrInvalidURL, name)
	}
	return nil
}

// takeParams takes our own options out of the parameters that pgx would send to the server.
func (cfg *Config) takeParams(params map[string]string) error {
	for name, take := range map[string]func(string) error{
		"tenant_role": func(v string) error {
			cfg.TenantRole = v
			return checkRole(v)
		},
		"replica": func(v string) error {
			cfg.Replicas = strings.Fields(v)
			return nil
		},
		"reset": func(v string) error {
			cfg.Reset = v
			_, err := Config{Reset: v}.withDefaults()
			return err
		},
		"tenant_statements": func(v string) (err error) {
			if cfg.TenantStatements, err = number("tenant_statements", v, 0); cfg.TenantStatements == 0 {
				cfg.TenantStatements = -1
			}
			return err
		},
		"first_sights": func(v string) (err error) {
			cfg.FirstSights, err = number("first_sights", v, 1)
			return err
		},
		"affinity_wait": func(v string) (err error) {
			if cfg.AffinityWait, err = time.ParseDuration(v); err != nil || cfg.AffinityWait < 0 {
				return fmt.Errorf("%w: affinity_wait=%q is not a duration such as 3ms, or 0", backend.ErrInvalidURL, v)
			}
			if cfg.AffinityWait == 0 {
				cfg.AffinityWait = -1
			}
			return nil
		},
	} {
		if v, ok := params[name]; ok {
			delete(params, name)
			if err := take(v); err != nil {
				return err
			}
		}
	}
	return nil
}

func number(name, text string, least int) (int, error) {
	n, err := strconv.Atoi(text)
	if err != nil || n < least {
		return 0, fmt.Errorf("%w: %s=%q is not a whole number of at least %d", backend.ErrInvalidURL, name, text, least)
	}
	return n, nil
}
