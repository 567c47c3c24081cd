// Package durable has what it takes for the names of files to survive a loss of power.
package durable

// SyncDir has nothing to do: NTFS keeps its directories in a journal.
func SyncDir(string) error { return nil }
