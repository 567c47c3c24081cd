package polls

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/argon2"
)

// PasswordCost is what it takes to hash one password with argon2id.
type PasswordCost struct {
	MemoryKiB uint32
	Passes    uint32
	Lanes     uint8
}

// DefaultPasswordCost is OWASP's recommendation for argon2id: 19 MiB, two passes, one lane.
var DefaultPasswordCost = PasswordCost{MemoryKiB: 19 * 1024, Passes: 2, Lanes: 1}

const (
	saltBytes = 16
	keyBytes  = 32
	// hashPatience is how long who hashes waits in line: who waits longer has given up and would only add to it.
	hashPatience = 5 * time.Second
	// unusablePassword is the hash of a user who cannot sign in.
	unusablePassword = "!"
)

// hasher makes and checks PHC strings, `$argon2id$v=19$m=…,t=…,p=…$salt$key`: so many at a time and no more, and one at a
// time for each key.
type hasher struct {
	cost     PasswordCost
	patience time.Duration // for a place in line
	slots    chan struct{}
	lines    lines
	key      func(ctx context.Context) string
}

// hash returns the PHC string of a password with a fresh salt, or ErrBusy.
func (h *hasher) hash(ctx context.Context, password string) (string, error) {
	salt := make([]byte, saltBytes)
	_, _ = rand.Read(salt) // Never fails: it ends the process instead.
	key, err := h.derive(ctx, password, salt, h.cost, keyBytes)
	if err != nil {
		return "", err
	}
	return phc(h.cost, salt, key), nil
}

// matches tells whether phc is the hash of the password. For a user who does not exist or cannot sign in it does the same
// work in vain: how long the answer takes does not tell which names exist.
func (h *hasher) matches(ctx context.Context, encoded, password string) (bool, error) {
	cost, salt, want, ok := parsePHC(encoded)
	if !ok {
		cost, salt, want = h.cost, make([]byte, saltBytes), make([]byte, keyBytes)
	}
	key, err := h.derive(ctx, password, salt, cost, uint32(len(want)))
	if err != nil {
		return false, err
	}
	return subtle.ConstantTimeCompare(key, want) == 1 && ok, nil
}

func (h *hasher) derive(ctx context.Context, password string, salt []byte, cost PasswordCost, size uint32) ([]byte, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, h.patience, ErrBusy)
	defer cancel()
	// First the line of one's own, then a slot: whoever waits in a long line keeps nobody of another line waiting.
	leave, err := h.lines.enter(ctx, h.key(ctx))
	if err != nil {
		return nil, err
	}
	defer leave()
	select {
	case h.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	defer func() { <-h.slots }()
	return argon2.IDKey([]byte(password), salt, cost.Passes, cost.MemoryKiB, cost.Lanes, size), nil
}

// lines lets one at a time through for each key. A key takes memory while somebody is in its line. The zero value is ready.
type lines struct {
	mu  sync.Mutex
	all map[string]*line
}

type line struct {
	turn   chan struct{}
	people int // in the line, whoever has the turn included
}

// enter waits for the key's turn. Whoever got it calls leave; otherwise the error is why ctx is done.
func (l *lines) enter(ctx context.Context, key string) (leave func(), err error) {
	l.mu.Lock()
	at := l.all[key]
	if at == nil {
		if l.all == nil {
			l.all = map[string]*line{}
		}
		at = &line{turn: make(chan struct{}, 1)}
		l.all[key] = at
	}
	at.people++
	l.mu.Unlock()
	away := func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if at.people--; at.people == 0 {
			delete(l.all, key)
		}
	}
	select {
	case at.turn <- struct{}{}:
		return func() { <-at.turn; away() }, nil
	case <-ctx.Done():
		away()
		return nil, context.Cause(ctx)
	}
}

func phc(cost PasswordCost, salt, key []byte) string {
	b64 := base64.RawStdEncoding
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s",
		argon2.Version, cost.MemoryKiB, cost.Passes, cost.Lanes, b64.EncodeToString(salt), b64.EncodeToString(key))
}

// parsePHC refuses parameters that no hash of ours has: a damaged row must not make the process take all memory.
func parsePHC(encoded string) (cost PasswordCost, salt, key []byte, ok bool) {
	parts := strings.Split(encoded, "$")
	if len(parts) != 6 || parts[0] != "" || parts[1] != "argon2id" || parts[2] != fmt.Sprintf("v=%d", argon2.Version) {
		return cost, nil, nil, false
	}
	if _, err := fmt.Sscanf(parts[3], "m=%d,t=%d,p=%d", &cost.MemoryKiB, &cost.Passes, &cost.Lanes); err != nil {
		return cost, nil, nil, false
	}
	salt, errSalt := base64.RawStdEncoding.Strict().DecodeString(parts[4])
	key, errKey := base64.RawStdEncoding.Strict().DecodeString(parts[5])
	ok = errSalt == nil && errKey == nil && len(salt) >= 8 && len(salt) <= 64 && len(key) >= 16 && len(key) <= 64 &&
		cost.MemoryKiB >= 8 && cost.MemoryKiB <= 1<<20 && cost.Passes >= 1 && cost.Passes <= 64 && cost.Lanes >= 1
	return cost, salt, key, ok
}

// newSecret returns a token of 256 random bits and what of it is stored. The token is too long to guess, so a fast hash
// without salt is enough, and it can be looked up.
func newSecret() (token, hash string) {
	raw := make([]byte, 32)
	_, _ = rand.Read(raw)
	token = base64.RawURLEncoding.EncodeToString(raw)
	return token, hashSecret(token)
}

func hashSecret(token string) string {
	sum := sha256.Sum256([]byte(token))
	return hex.EncodeToString(sum[:])
}
