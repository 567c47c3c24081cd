package driver

import (
	"context"
	"sync"
)

// Queues let one caller at a time have a key; the others wait in order of arrival. A key that nobody has or waits for
// takes no memory. The zero value is ready; do not copy it. It is safe for concurrent use.
type Queues struct {
	mu   sync.Mutex
	keys map[string]*queue
}

type queue struct {
	turn  chan struct{} // holds a token while nobody has the key; a channel serves those who wait in order
	users int           // who has it and who waits; guarded by Queues.mu
}

// Enter waits for the key, no longer than ctx allows, and returns what gives it back, once: further calls do nothing. It
// returns ctx's error, and has not entered, when that ended first.
func (q *Queues) Enter(ctx context.Context, key string) (leave func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	k := q.join(key)
	select {
	case <-k.turn:
		return q.leave(key, k), nil
	case <-ctx.Done():
		q.part(key, k)
		return nil, ctx.Err()
	}
}

// TryEnter is [Queues.Enter] without waiting; ok is false when somebody has the key.
func (q *Queues) TryEnter(key string) (leave func(), ok bool) {
	k := q.join(key)
	select {
	case <-k.turn:
		return q.leave(key, k), true
	default:
		q.part(key, k)
		return nil, false
	}
}

func (q *Queues) join(key string) *queue {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.keys == nil {
		q.keys = make(map[string]*queue)
	}
	k := q.keys[key]
	if k == nil {
		k = &queue{turn: make(chan struct{}, 1)}
		k.turn <- struct{}{}
		q.keys[key] = k
	}
	k.users++
	return k
}

func (q *Queues) part(key string, k *queue) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if k.users--; k.users == 0 {
		delete(q.keys, key)
	}
}

func (q *Queues) leave(key string, k *queue) func() {
	return sync.OnceFunc(func() {
		k.turn <- struct{}{}
		q.part(key, k)
	})
}
