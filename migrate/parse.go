package migrate

import (
	"context"
	"crypto/sha256"
	"sync"
)

// parsed is what goose makes of a migration's text.
type parsed struct {
	up, down []string
	tx       bool
}

// parsedTexts keeps what goose made of texts, for the next Migrator of this process. Tests make many, and goose's parser
// takes a buffer of 4 MB for each line from a pool that keeps little of it after a collection, and less under the race
// detector: half of the time of such tests was spent on clearing them.
var parsedTexts struct {
	mu sync.Mutex
	by map[[sha256.Size]byte]parsed
}

// maxParsedTexts is after how many texts all are forgotten.
const maxParsedTexts = 2000

// parse has the migration's text read.
func (m *migration) parse(text []byte) error {
	p, err := m.parseOnce(text)
	m.up, m.down, m.tx = p.up, p.down, p.tx // which nobody changes
	m.noDown = len(p.down) == 0
	return err
}

// parseOnce has goose read a text, unless it has read the same before.
func (m *migration) parseOnce(text []byte) (parsed, error) {
	if substitutes(text) { // what it means depends on the environment
		return m.parseByGoose(text)
	}
	sum := sha256.Sum256(text)
	parsedTexts.mu.Lock()
	p, known := parsedTexts.by[sum]
	parsedTexts.mu.Unlock()
	if known {
		return p, nil
	}
	p, err := m.parseByGoose(text)
	if err != nil {
		return p, err
	}
	parsedTexts.mu.Lock()
	defer parsedTexts.mu.Unlock()
	if parsedTexts.by == nil || len(parsedTexts.by) >= maxParsedTexts {
		parsedTexts.by = map[[sha256.Size]byte]parsed{}
	}
	parsedTexts.by[sum] = p
	return p, nil
}

// parseByGoose has goose apply and undo the migration in a database that only takes notes.
func (m *migration) parseByGoose(text []byte) (p parsed, err error) {
	rec := &recorder{}
	db := rec.open()
	defer func() { _ = db.Close() }()
	store := &scriptedStore{}
	provider, err := (&series{}).provider(db, providerOptions{store: store, files: fileSet{m.file: text}})
	if err != nil {
		return p, err
	}
	if _, err := provider.ApplyVersion(context.Background(), m.version, true); err != nil {
		return p, err
	}
	p.up, p.tx = rec.statements, rec.began
	rec.statements, store.applied = nil, true
	if _, err := provider.ApplyVersion(context.Background(), m.version, false); err != nil {
		return p, err
	}
	p.down = rec.statements
	return p, nil
}
