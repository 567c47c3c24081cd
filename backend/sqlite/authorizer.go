package sqlite

import (
	"strings"

	driver "modernc.org/sqlite"
)

// effect is what a statement does beyond reading, as SQLite's compiler announces it to the authorizer. It is exact
// where looking at the text would be a guess (a CTE before an INSERT, a pragma behind a table-valued function).
type effect uint16

const (
	// writes: it changes a database, so it needs the writer's turn.
	writes effect = 1 << iota
	// taints: it leaves something on the connection (a setting, a temporary table, a transaction of its own), which
	// must not serve anyone else afterwards.
	taints
	// begins and ends: it may open or end a transaction.
	begins
	ends
	// looksUp: it asks about tables by name without failing where there is none (pragmas, and the functions made of them).
	looksUp
	// sharedRead: it reads a shared table. Its compilation went by the tables that the tenant had then.
	sharedRead
	// defines: it makes or alters tables.
	defines
	// setsKeys: it is PRAGMA foreign_keys with a value.
	setsKeys
	// reachesAll: a pragma that does something to all attached databases when it names none.
	reachesAll
)

const (
	// sharedSchema is the name under which the shared store is attached.
	sharedSchema = "public"
	tempSchema   = "temp"
	// stampTable holds the owner of a store. It is the first table of every store.
	stampTable = "tenement_store"
)

// authorize is SQLite's authorizer callback. It runs while a statement is compiled, on the goroutine that uses c.
func (c *conn) authorize(action driver.AuthorizerActionCode, arg1, arg2, schema, _ string) driver.AuthorizerReturnCode {
	if c.own {
		return driver.AuthorizerOK
	}
	e, allowed := c.judge(action, arg1, arg2, schema)
	switch {
	case !allowed:
		c.denied = deniedForGood
	case action == driver.AuthPragma && e&reachesAll != 0 && schema == "" && c.attached:
		c.denied = deniedEverywhere
	case c.readOnly && e&writes != 0:
		c.denied = deniedInReadOnlyTx
	case c.script && action == driver.AuthTransaction:
		c.denied = deniedInScript
	default:
		c.effects |= e
		if c.st != nil && c.st.seen != nil {
			c.st.seen.note(e&sharedRead != 0 || c.watch.varies(action, arg1, arg2, schema))
		}
		return driver.AuthorizerOK
	}
	return driver.AuthorizerDeny
}

// denial is why the authorizer refused a statement.
type denial uint8

const (
	notDenied denial = iota
	deniedForGood
	deniedInReadOnlyTx
	deniedInScript
	deniedEverywhere
)

// judge says what an action does and whether it may be done at all.
func (c *conn) judge(action driver.AuthorizerActionCode, arg1, arg2, schema string) (effect, bool) {
	switch action {
	case driver.AuthSelect, driver.AuthRecursive:
		return 0, true
	case driver.AuthFunction:
		// arg2 is the function. The driver has extension loading off; this holds even if it were turned on.
		return 0, !strings.EqualFold(arg2, "load_extension")
	case driver.AuthRead:
		switch {
		case schema == sharedSchema:
			return sharedRead, true
		case strings.HasPrefix(arg1, "pragma_"):
			return looksUp, true
		}
		return 0, true
	case driver.AuthTransaction, driver.AuthSavepoint:
		return c.judgeControl(action, arg1), true
	case driver.AuthPragma:
		e, allowed := c.judgePragma(strings.ToLower(arg1), strings.ToLower(arg2), schema)
		return e | looksUp, allowed
	case driver.AuthAttach:
		// VACUUM attaches a database without a name. So could a statement whose file name is an expression, hence
		// the flag, which is set while a VACUUM runs and nothing else.
		return writes, c.vacuum && arg1 == ""
	case driver.AuthDetach:
		return 0, false
	default:
		return c.judgeChange(action, arg1, arg2, schema)
	}
}

// judgeControl is judge for what begins and ends transactions. Whether it really does is asked afterwards.
func (c *conn) judgeControl(action driver.AuthorizerActionCode, what string) effect {
	switch {
	case c.vacuum:
		return 0 // VACUUM's own, over when it is
	case action == driver.AuthTransaction && what == "BEGIN":
		return begins | writes
	case action == driver.AuthTransaction:
		return ends
	case what == "BEGIN":
		return begins // outside of a transaction SAVEPOINT opens one
	case what == "RELEASE":
		return ends // the outermost one, when there is no BEGIN around it
	}
	return 0
}

// judgeChange is judge for what changes a database.
func (c *conn) judgeChange(action driver.AuthorizerActionCode, arg1, arg2, schema string) (effect, bool) {
	switch action {
	case driver.AuthAlterTable:
		return writes | defines, !c.protected(arg1, arg2) // arg1 is the schema, arg2 the table
	case driver.AuthCreateTempIndex, driver.AuthCreateTempTable, driver.AuthCreateTempTrigger, driver.AuthCreateTempView,
		driver.AuthDropTempIndex, driver.AuthDropTempTable, driver.AuthDropTempTrigger, driver.AuthDropTempView:
		return writes | taints, true
	case driver.AuthCreateTable:
		e, allowed := c.judgeWrite(arg1, schema)
		return e | defines, allowed
	case driver.AuthInsert, driver.AuthUpdate, driver.AuthDelete, driver.AuthDropTable:
		return c.judgeWrite(arg1, schema)
	case driver.AuthCreateTrigger, driver.AuthCreateIndex, driver.AuthDropTrigger, driver.AuthDropIndex:
		return c.judgeWrite(arg2, schema) // arg1 is the trigger or the index
	default:
		// Views, virtual tables, REINDEX, ANALYZE, and whatever a later SQLite invents: changes to its schema.
		return c.judgeWrite("", schema)
	}
}

func (c *conn) judgeWrite(table, schema string) (effect, bool) {
	if schema == tempSchema {
		return writes | taints, true
	}
	return writes, !c.protected(schema, table)
}

// protected reports whether table of schema is out of bounds for the application.
func (c *conn) protected(schema, table string) bool {
	if schema == sharedSchema || !c.tenant {
		return schema == sharedSchema
	}
	// VACUUM copies all tables into a database of its own.
	return strings.EqualFold(table, stampTable) && (!c.vacuum || schema == "main")
}

// judgePragma knows three kinds of pragma: those that tell something, those that set something on this connection or in
// this store, and all others, which are refused: they reach the whole process, or undo what keeps stores apart.
func (c *conn) judgePragma(name, value, schema string) (effect, bool) {
	switch name {
	case "table_info", "table_xinfo", "table_list", "index_list", "index_info", "index_xinfo", "foreign_key_list",
		"foreign_key_check", "integrity_check", "quick_check", "database_list", "collation_list", "function_list",
		"module_list", "pragma_list", "compile_options", "freelist_count", "page_count", "data_version", "stats":
		return 0, true
	case "journal_mode":
		// Many applications ask for WAL when they start; that is what they have.
		return 0, value == "" || value == "wal"
	case "locking_mode":
		return 0, value == "" || value == "normal"
	case "trusted_schema":
		return 0, value == "" || value == "0" || value == "off" || value == "false" || value == "no"
	case "writable_schema", "schema_version", "max_page_count", "page_size", "encoding", "auto_vacuum", "application_id",
		"user_version", "query_only", "temp_store", "secure_delete", "foreign_keys", "defer_foreign_keys",
		"cache_size", "cache_spill", "recursive_triggers", "case_sensitive_like", "synchronous", "busy_timeout",
		"analysis_limit", "legacy_alter_table", "ignore_check_constraints", "automatic_index", "mmap_size",
		"cell_size_check", "reverse_unordered_selects", "read_uncommitted", "threads", "journal_size_limit",
		"wal_autocheckpoint", "checkpoint_fullfsync", "fullfsync", "count_changes", "empty_result_callbacks",
		"full_column_names", "short_column_names", "default_cache_size":
		if value == "" {
			return 0, true
		}
		if name == "writable_schema" || name == "schema_version" || schema == sharedSchema {
			return 0, false
		}
		if name == "foreign_keys" {
			return writes | taints | setsKeys, true
		}
		return writes | taints, true
	case "optimize", "wal_checkpoint":
		return writes | taints | reachesAll, schema != sharedSchema
	case "incremental_vacuum", "shrink_memory":
		return writes | taints, schema != sharedSchema
	}
	return 0, false
}
