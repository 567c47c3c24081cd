package placed

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/tenement-go/tenement/backend"
)

// RowShares implements [backend.RowSharer]. It asks home and the places, and changes nothing.
func (b *Backend) RowShares(ctx context.Context) ([]backend.RowShare, error) {
	if b.Dialect() != backend.Postgres {
		return nil, nil
	}
	s, at, err := b.look(ctx)
	if err != nil {
		return nil, err
	}
	if !at.on {
		return nil, nil
	}
	var shares []backend.RowShare
	for _, p := range b.places[1:] {
		shares = append(shares, s.share(ctx, p, at))
	}
	return shares, nil
}

// atHome is what home has of it.
type atHome struct {
	on          bool
	published   []string
	unpublished []string // tables of the shared set that are not and should be
	slots       []slot
}

// slot is one that was made for a place.
type slot struct {
	Name   string `json:"name"`
	Active bool   `json:"active"`
	Kept   int64  `json:"kept"` // bytes of the log; -1: unknown
	Lost   bool   `json:"lost"`
}

// look asks home.
func (b *Backend) look(ctx context.Context) (s *sharing, at atHome, err error) {
	if s, err = b.sharing(backend.ShareOptions{}); err != nil {
		return nil, at, err
	}
	var published, unpublished, slots string
	err = s.home.QueryRowContext(ctx, `SELECT current_database(), EXISTS (SELECT FROM pg_publication WHERE pubname = $1),
		(SELECT coalesce(json_agg(tablename ORDER BY tablename), '[]') FROM pg_publication_tables WHERE pubname = $1 AND schemaname = 'public')::text,
		(SELECT coalesce(json_agg(c.relname ORDER BY c.relname), '[]') FROM pg_class c WHERE `+sharedSet+`
			AND EXISTS (SELECT FROM pg_publication p WHERE p.pubname = $1 AND obj_description(p.oid, 'pg_publication') = '`+allTables+`')
			AND c.relname NOT IN (SELECT tablename FROM pg_publication_tables WHERE pubname = $1 AND schemaname = 'public'))::text,
		(SELECT coalesce(json_agg(json_build_object('name', slot_name, 'active', active, 'lost', coalesce(wal_status = 'lost', false), 'kept',
			coalesce(pg_wal_lsn_diff(CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END, restart_lsn), -1))), '[]')
			FROM pg_replication_slots WHERE `+slotLike+`)::text`, publication).Scan(&s.database, &at.on, &published, &unpublished, &slots)
	if err == nil {
		err = errors.Join(json.Unmarshal([]byte(published), &at.published), json.Unmarshal([]byte(unpublished), &at.unpublished), json.Unmarshal([]byte(slots), &at.slots))
	}
	return s, at, shareFault(b.places[0].name, err)
}

// share says how it stands with one place.
func (s *sharing) share(ctx context.Context, p *place, at atHome) backend.RowShare {
	share := backend.RowShare{Place: p.name, Tables: []string{}, Behind: -1}
	fault := func(format string, args ...any) { share.Faults = append(share.Faults, fmt.Sprintf(format, args...)) }
	name := s.slot(p.name)
	i := slices.IndexFunc(at.slots, func(sl slot) bool { return sl.Name == name })
	switch {
	case i < 0:
		fault("home has no slot for it, so that nothing is copied; place share on makes it")
	case at.slots[i].Lost:
		fault("its server did without its copy for so long that home gave up what it kept for it; place share on begins anew")
	default:
		share.Behind = at.slots[i].Kept
		if !at.slots[i].Active {
			fault("nobody fetches what home keeps for it, %d bytes by now, until its disk is full; place share off ends that", share.Behind)
		}
	}
	if _, err := p.open(ctx); err != nil {
		fault("%v", err)
		return share
	}
	sub, err := lookAtSubscription(ctx, p.sharedDB(), name)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		fault("it has no subscription; place share on makes it")
		return share
	case err != nil:
		fault("%v", err)
		return share
	case !sub.enabled:
		fault("its subscription is disabled; place share on enables it")
	case !sub.running:
		fault("the worker of its subscription is not running: its server's log says why, often a row that somebody else wrote or a migration that is missing there; it is tried again every few seconds")
	}
	var copying []string
	for _, t := range sub.tables {
		share.Tables = append(share.Tables, t.Table)
		if t.State != "r" {
			copying = append(copying, t.Table)
		}
	}
	if len(copying) > 0 {
		fault("the first copy of %s is not done", strings.Join(copying, ", "))
	}
	if more := without(at.published, share.Tables); len(more) > 0 {
		fault("the table %s is not copied to it yet; place share on does that", strings.Join(more, ", "))
	}
	return share
}

type subscription struct {
	enabled, running bool
	tables           []struct{ Table, State string }
}

// lookAtSubscription returns [sql.ErrNoRows] where there is none.
func lookAtSubscription(ctx context.Context, db *sql.DB, name string) (sub subscription, err error) {
	var tables string
	err = db.QueryRowContext(ctx, `SELECT s.subenabled, EXISTS (SELECT FROM pg_stat_subscription w WHERE w.subid = s.oid AND w.relid IS NULL AND w.pid IS NOT NULL),
		(SELECT coalesce(json_agg(json_build_object('table', c.relname, 'state', r.srsubstate) ORDER BY c.relname), '[]')
			FROM pg_subscription_rel r JOIN pg_class c ON c.oid = r.srrelid WHERE r.srsubid = s.oid)::text
		FROM pg_subscription s WHERE s.subname = $1 AND s.subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())`, name).Scan(&sub.enabled, &sub.running, &tables)
	if err == nil {
		err = json.Unmarshal([]byte(tables), &sub.tables)
	}
	return sub, err
}

// adviseShares says what is wrong with the copies of shared rows.
func (b *Backend) adviseShares(ctx context.Context) (advice []backend.Advice, err error) {
	if b.Dialect() != backend.Postgres || len(b.places) < 2 {
		return nil, nil
	}
	s, at, err := b.look(ctx)
	if err != nil {
		return nil, err
	}
	say := func(format string, args ...any) {
		advice = append(advice, backend.Advice{Text: fmt.Sprintf(format, args...)})
	}
	mine := map[string]bool{}
	for _, p := range b.places[1:] {
		mine[s.slot(p.name)] = at.on
		if !at.on {
			continue
		}
		for _, f := range s.share(ctx, p, at).Faults {
			say("shared rows of place %s: %s", p.name, f)
		}
	}
	for _, sl := range at.slots {
		if !mine[sl.Name] {
			say("home keeps what is written, %d bytes by now, in the slot %s for a place that there is not, or to which nothing is copied; drop it with pg_drop_replication_slot, or with place share off, which ends all copying", sl.Kept, sl.Name)
		}
	}
	if at.on && len(at.unpublished) > 0 {
		say("the rows of %s are not copied to other places; place share on does that", strings.Join(at.unpublished, ", "))
	}
	return advice, nil
}
