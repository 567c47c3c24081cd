// Package transfer moves tenants: into a file and out of it, between SQLite and Postgres, into a copy of their own.
//
//	m, err := transfer.Export(ctx, app, thor.ID, "thor.db", transfer.ExportOptions{})
//	thor, err := transfer.Import(ctx, elsewhere, "thor.db", transfer.ImportOptions{})
//
// # The file
//
// It is an ordinary SQLite database, with the application_id 0x546e6d74 ("Tnmt") and the format's version ([Format]) as its
// user_version. The tenant's tables have their own names in it, and columns without types; a name that SQLite would take for
// another, or that begins with sqlite_ or tenement_, has another one, which the manifest has. Beside them are
//
//	tenement_manifest   one row: the manifest as JSON (see [Manifest]), and its SHA-256
//	tenement_files      the tenant's files: path, permissions, size, SHA-256
//	tenement_pieces     what is in them, in pieces of 256 KB
//	tenement_seal       the SHA-256 of the whole file, with zeros in the place of itself: of a file in which any byte was
//	                    changed nothing is made
//
// The manifest says whose data it is (ID, slug, domains, metadata), which migrations made the tables (sources, versions,
// checksums), and of each table the columns with their types, the number of rows and a hash of them that does not depend on
// their order. The tables are read in one transaction, which sees nothing that is written meanwhile (where TRUNCATE or the
// like comes in between, which a snapshot of Postgres does not cover, [ErrMigrated] is returned); sequences, which are
// outside of transactions, and files are read as they are then. Row by row goes to the file: memory does not grow with the
// tenant.
//
// Not in the file are goose's version tables and whatever is not rows: views, indexes, functions, triggers are the
// migrations' to make. Virtual tables of SQLite are refused ([ExportOptions.Without] leaves them out).
//
// # How values are kept, and become others
//
// The values of SQLite are in the file as they were. Those of Postgres have one form each:
//
//	boolean                 0, 1
//	smallint … bigint       integer
//	real, double precision  float; 'NaN', which SQLite has no float for
//	numeric                 text with all its zeros: '1.50', 'NaN', 'Infinity'
//	text, varchar, char     text; char(n) with its blanks
//	bytea                   blob
//	uuid                    text, in lower case with hyphens
//	date                    text '2024-02-29', '0044-03-15 BC', 'infinity'
//	time                    text '10:11:12.000000'
//	timestamp, timestamptz  text '2024-02-29 10:11:12.000000', the latter in UTC, as package sqlite writes times
//	interval                text, ISO 8601 with months, days and seconds apart: 'P14M3DT1.5S'
//	json, jsonb             text
//	enum                    text
//	arrays                  text, a JSON array: '[1,null]', '["a","b"]', '[[1,2],[3,4]]'; bytes in hexadecimal
//	domains                 what they are made of
//	all others              text, as Postgres writes it
//
// The type of the column in Postgres decides what a value of SQLite means, whatever that column is declared as:
//
//	boolean                 0, 1, and the texts t, true, f, false, 0, 1
//	integers                integers that fit, floats without a fraction, digits
//	floats                  numbers that are the same as a float (of 32 bits, for real), the texts NaN, ±Infinity
//	numeric                 integers and floats, which get the column's scale; digits, whose scale must be that one
//	text, varchar, char     texts without U+0000, in UTF-8, that are not too long and, for char(n), not too short
//	bytea                   blobs
//	uuid                    texts with or without hyphens, blobs of 16 bytes
//	date                    dates, also with a time of 00:00
//	time                    HH:MM, HH:MM:SS, HH:MM:SS.ffffff
//	timestamp, timestamptz  dates; dates with a time, behind a blank or a T, with an offset (for timestamp: none but 0),
//	                        which is UTC when there is none; numbers as SQLite's own functions take them: seconds since 1970,
//	                        Julian days where they have a fraction and come from milliseconds. Integers up to 5373484
//	                        could be either, and are refused.
//	interval                ISO 8601 with designators
//	json, jsonb             texts and blobs that are JSON without a key twice in one object, and without U+0000 for jsonb; numbers
//	enum                    its labels
//	arrays                  JSON arrays
//
// From Postgres to SQLite a value is put into the column in the form above (a numeric, where the column's affinity makes a
// number of it, as the nearest one; a timestamp without a fraction, in an INTEGER column, as seconds since 1970). It is
// refused when what the column makes of it would not come back as the value that it was.
//
// Columns need no counterpart of the same name for their types: they are matched by name, upper and lower case aside where only
// one has the name. Generated columns are left out; their database works them out again.
//
// What would change is refused, with a [*ValueError] that names table, column and row, before the tenant is there; a numeric
// whose zeros have no place in SQLite with a [*SchemaError] before a row is moved. A [Mapping] allows what may be lost. Equal
// are two values by what they mean: jsonb without blanks and order, timestamptz as instants, intervals as months, days and
// microseconds, 0 and -0; numeric with its zeros, and char with its blanks.
//
// # What else comes along
//
// Series of numbers (serial, identity, AUTOINCREMENT) go on after the highest number that was ever given out. A table of SQLite
// without AUTOINCREMENT has nowhere to keep that, and goes on after the highest that is there.
//
// Rows that the migrations inserted are replaced. Triggers do not fire and rules do not run, foreign keys hold when all is
// there, in cycles too; no superuser is needed. See postgresWriter and sqliteWriter for how.
//
// # Limits
//
// The package links no driver. To write or read a tenant's file, which is a SQLite database, the program has to link
// package backend/sqlite ([ErrNoSQLite]). Large objects of Postgres, and what
// extensions keep outside of the tenant's tables, are not moved.
package transfer
