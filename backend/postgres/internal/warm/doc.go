// Package warm decides which of a pool's connections serves which store, so that each finds it in its caches.
//
// policy is the decision itself, without clocks, goroutines or connections: slots, who has them (policy.go), who waits for
// them (line.go), which stores are at home where (homes.go), and which may be everywhere (census.go). [Keeper] is the lock
// around it, with timers and connections; what goes through every store has connections apart (apart.go), and one that has
// seen too much is exchanged for a successor (retire.go).
package warm
