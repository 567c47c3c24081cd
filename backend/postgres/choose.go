package postgres

import (
	"github.com/jackc/pgx/v5"

	"github.com/tenement-go/tenement/backend"
)

// situation is all that decides how a statement is sent.
type situation struct {
	mode    pgx.QueryExecMode
	store   backend.Store
	st      *statement // what is remembered of the text, or nil
	variant *statement // st as it is prepared for this store, or nil
	alone   bool       // it can be run again when it fails: nothing of a transaction is lost
	plain   bool       // the arguments are the same text whatever the types of the parameters
	admits  bool       // another variant is worth making
	pooled  bool       // a pooler keeps what is prepared on the server; see pooled.go
	stale   bool       // and what it has of this is stale
}

// plan is how a statement is sent: by name, or parsed along.
type plan struct {
	// describe: nothing is known of it in this store; ask first, in a message of its own.
	describe bool
	st       *statement // by whose types the arguments are encoded; nil: as plain text
	name     string     // of the prepared statement, "" is the unnamed one
	parse    bool       // parse it, under that name
	keep     bool       // as a variant
	infer    bool       // the types that it has here are not known: ask, along with it
	binary   bool       // the columns are known, and come in the formats that suit them; else they come as text
}

// choose decides how a statement is sent.
//
// A prepared statement stays bound to what it was first found to mean as long as search_path is the same when it is
// executed. With another path the server looks everything up again and makes a new plan (plancache.c,
// RevalidateCachedQuery); only the types of the parameters stay what they were when it was parsed. So a statement that
// was prepared for one store is right in another where the types are the same, and merely slow there.
func choose(s situation) plan {
	if s.mode == pgx.QueryExecModeExec {
		return plan{parse: true}
	}
	st := s.st
	if st == nil {
		return plan{describe: true}
	}
	own := st.store == s.store
	same := st.same.has(s.store)
	switch {
	case st.sd.Name == "": // only described, and that for this store
		return plan{st: st, parse: true, binary: true}
	case st.varied, s.stale, st.traits&star != 0 && !s.alone:
		// Parsed anew. In a transaction a failure could not be mended, so there it is not even risked.
		switch {
		case own || same:
			return plan{st: st, parse: true}
		case s.plain:
			return plan{parse: true}
		}
		return plan{describe: true}
	case own:
		return plan{st: st, name: st.sd.Name, parse: st.unparsed, binary: true}
	case s.variant != nil:
		return plan{st: s.variant, name: s.variant.sd.Name, parse: s.variant.unparsed, binary: true}
	case same && s.admits:
		return plan{st: st, name: variantName(st.sd.SQL, s.store), parse: true, keep: true, infer: true}
	case same && s.alone:
		return plan{st: st, name: st.sd.Name, parse: st.unparsed, binary: true}
	case same:
		return plan{st: st, parse: true}
	case s.plain && s.admits && !s.pooled:
		return plan{name: variantName(st.sd.SQL, s.store), parse: true, keep: true, infer: true}
	case s.plain:
		return plan{parse: true, infer: true}
	}
	return plan{describe: true}
}

// plainArgs reports whether all arguments are sent as they are, whatever type the server takes them for: pgx encodes a
// string for any type as that very text (pgtype's encodePlanStringToAnyTextFormat). What a number is encoded as, and whether
// it is at all, depends on the type: 1999 is no interval of 1999 seconds, though its text is.
func plainArgs(args []any) bool {
	for _, a := range args {
		switch a.(type) {
		case nil, string:
		default:
			return false
		}
	}
	return true
}
