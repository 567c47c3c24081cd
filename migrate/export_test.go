package migrate

import "time"

// SetHearing sets how long a Down waits, once it has told the others, before it undoes anything.
func (m *Migrator) SetHearing(d time.Duration) {
	m.hearing = d
	for _, p := range m.parts {
		p.m.SetHearing(d)
	}
}
