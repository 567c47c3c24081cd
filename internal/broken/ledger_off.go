//go:build !tenement_break_ledger

package broken

const breakLedger = false
