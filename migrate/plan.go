package migrate

import (
	"fmt"
	"strings"
)

// What a store needs is worked out here, from what the ledger says it has and what the binary carries. Nothing is asked of
// a database.

// limit says how far a run goes: with a source, that source alone, up to a version; without, everything.
type limit struct {
	source string
	to     int64
}

// plan is what stores that have the same migrations need.
type plan struct {
	unknown bool // it is not known what they have
	todo    []*migration
	late    *migration // the first that is out of order, or nil
	from    state
	next    state // what they have afterwards
}

func (p *plan) behind() bool { return p.unknown || len(p.todo) > 0 }

// plan makes the plan for stores at a state; nil is one that is not known.
func (s *set) plan(have state, lim limit) *plan {
	if have == nil {
		return &plan{unknown: true}
	}
	p := &plan{from: have}
	p.todo, p.late = s.pending(have, lim)
	p.next = have.with(p.todo)
	return p
}

// pending lists what a store with these migrations lacks, in the order in which it is applied. late is the first of them
// that is out of order, or nil.
func (s *set) pending(have state, lim limit) (todo []*migration, late *migration) {
	for _, src := range s.sources {
		if lim.source != "" && lim.source != src.name {
			continue
		}
		top := newest(have[src.name])
		for _, m := range src.migrations {
			if lim.to != 0 && m.version > lim.to {
				break
			}
			if have.has(src.name, m.version) {
				continue
			}
			if m.version < top && late == nil {
				late = m
			}
			todo = append(todo, m)
		}
	}
	return todo, late
}

func newest(list []applied) int64 {
	if len(list) == 0 {
		return 0
	}
	return list[len(list)-1].Version
}

func outOfOrder(m *migration) error {
	return fmt.Errorf("%w: %s version %d (%s) is missing below versions that are applied; give it a higher number or set AllowOutOfOrder",
		ErrOutOfOrder, m.source.name, m.version, m.file)
}

// behindShared is the error of a run over tenants while the shared set is at have.
func (s *set) behindShared(have state) error {
	todo, _ := s.pending(have, limit{})
	if len(todo) == 0 {
		return nil
	}
	return fmt.Errorf("tenement: migrate: %w: %d migrations are pending, the first is %s version %d (%s)",
		ErrSharedBehind, len(todo), todo[0].source.name, todo[0].version, todo[0].file)
}

// named returns the source of that name, or the only one when the name is empty.
func (s *set) named(name string) (*series, error) {
	if name == "" {
		if len(s.sources) == 1 {
			return s.sources[0], nil
		}
		return nil, fmt.Errorf("%w: the %s set has %d sources; name one (%s)", ErrUnknownSource, s.kind, len(s.sources), s.names())
	}
	if src := s.find(name); src != nil {
		return src, nil
	}
	return nil, fmt.Errorf("%w: the %s set has no source %q (it has: %s)", ErrUnknownSource, s.kind, name, s.names())
}

func (s *set) names() string {
	names := make([]string, len(s.sources))
	for i, src := range s.sources {
		names[i] = src.name
	}
	return strings.Join(names, ", ")
}

// limit reads how far a run over the set goes.
func (s *set) limit(source string, to int64) (limit, error) {
	if source == "" && to == 0 {
		return limit{}, nil
	}
	src, err := s.named(source)
	if err != nil {
		return limit{}, err
	}
	if to != 0 && src.find(to) == nil {
		return limit{}, fmt.Errorf("%w: source %s has no version %d", ErrUnknownSource, src.name, to)
	}
	return limit{source: src.name, to: to}, nil
}
