package a

import (
	"context"
	"database/sql"
	"net/http"
)

func handler(db *sql.DB) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		_, _ = db.Exec("DELETE FROM notes")                                 // want `DB.Exec has no context, and so no tenant: use ExecContext`
		_ = db.QueryRow("SELECT 1")                                         // want `DB.QueryRow has no context`
		_, _ = db.ExecContext(context.Background(), "DELETE FROM notes")    // want `context.Background has no tenant: use r.Context\(\), or context.WithoutCancel of it`
		_, _ = db.ExecContext(r.Context(), "DELETE FROM notes")             // what is right
		go func() { _, _ = db.QueryContext(context.TODO(), "SELECT 1") }()  // want `context.TODO has no tenant`
		_, _ = db.ExecContext(context.Background(), "DELETE FROM sessions") //tenantctx:ignore it is the shared handle
	}
}

func job(ctx context.Context, db *sql.DB) error {
	tx, err := db.Begin() // want `DB.Begin has no context, and so no tenant: use BeginTx`
	if err != nil {
		return err
	}
	_, err = tx.Exec("DELETE FROM notes") // a transaction has its tenant
	if err != nil {
		return err
	}
	stmt, err := db.Prepare("SELECT 1") // touches no store
	if err != nil {
		return err
	}
	_, err = stmt.Exec() // want `Stmt.Exec has no context`
	return err
}

func main() {
	db, _ := sql.Open("x", "")
	_ = job(context.Background(), db) // nothing is at hand
	//tenantctx:ignore the program's own database
	_, _ = db.Exec("SELECT 1")
}
