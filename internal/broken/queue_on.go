//go:build tenement_break_queue

package broken

const breakQueue = true
