//go:build !tenement_break_pool

package broken

const breakPool = false
