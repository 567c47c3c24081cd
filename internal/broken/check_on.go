//go:build tenement_break_check

package broken

const breakCheck = true
