package sqltext

import "errors"

// InSchema returns an array of the OIDs of the rows of one of Postgres' catalogs that are of a schema, an expression for its
// OID, but for what is another's part, such as indexes. They are found by their dependency on the schema, which has an index:
// the catalogs have none that begins with the schema, and would be looked through for all tenants.
func InSchema(catalog, schema string) string {
	return "array(select d.objid from pg_catalog.pg_depend d where d.refclassid='pg_catalog.pg_namespace'::pg_catalog.regclass" +
		" and d.refobjid=" + schema + " and d.classid='pg_catalog." + catalog + "'::pg_catalog.regclass)"
}

// State returns the SQLSTATE of the database's error, whatever the driver; "" where there is none, as with SQLite.
func State(err error) string {
	var coded interface{ SQLState() string }
	if errors.As(err, &coded) {
		return coded.SQLState()
	}
	return ""
}
