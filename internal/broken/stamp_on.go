//go:build tenement_break_stamp

package broken

const breakStamp = true
