package sqlite

// unsynced are the files that scripts changed and nobody synced yet.
type unsynced struct{}
