package postgres

import (
	"strconv"
	"strings"
	"sync"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tenement-go/tenement/backend"
)

// alike is a set of stores in which a text has the same types. What one connection has found out saves the others a round
// trip for each store: those that take the place of a retired one above all. It may be out of date like anything that a
// connection remembers: the text is parsed with the types that it had, and the server refuses what does not go with them.
type alike struct {
	mu     sync.RWMutex
	stores map[backend.Store]struct{}
}

// maxAlike bounds the stores of one text.
const maxAlike = 1 << 16

func newAlike() *alike { return &alike{stores: make(map[backend.Store]struct{})} }

func (a *alike) has(s backend.Store) bool {
	if a == nil {
		return false
	}
	a.mu.RLock()
	defer a.mu.RUnlock()
	_, same := a.stores[s]
	return same
}

func (a *alike) add(s backend.Store) {
	if a == nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.stores) >= maxAlike {
		clear(a.stores)
	}
	a.stores[s] = struct{}{}
}

func (a *alike) remove(s backend.Store) {
	if a == nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.stores, s)
}

// alikes are those of a backend's texts, by the text and its types.
type alikes struct {
	mu sync.Mutex
	m  map[string]*alike
}

// maxAlikes bounds the texts. Those that are forgotten stay with the connections that have them.
const maxAlikes = 4096

func (a *alikes) of(sd *pgconn.StatementDescription) *alike {
	key := typesKey(sd)
	a.mu.Lock()
	defer a.mu.Unlock()
	found := a.m[key]
	if found == nil {
		if a.m == nil || len(a.m) >= maxAlikes {
			a.m = make(map[string]*alike)
		}
		found = newAlike()
		a.m[key] = found
	}
	return found
}

// typesKey is a text and its types in one.
func typesKey(sd *pgconn.StatementDescription) string {
	var b strings.Builder
	for _, oid := range sd.ParamOIDs {
		b.WriteString(strconv.FormatUint(uint64(oid), 36))
		b.WriteByte(',')
	}
	for i := range sd.Fields {
		b.WriteString(strconv.Quote(sd.Fields[i].Name))
		b.WriteString(strconv.FormatUint(uint64(sd.Fields[i].DataTypeOID), 36))
	}
	b.WriteByte(0)
	b.WriteString(sd.SQL)
	return b.String()
}
