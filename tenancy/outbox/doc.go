// Package outbox carries messages out of tenants: a job is made in the tenant's own transaction, together with the change
// that it follows from, and is delivered afterwards to a queue that all tenants share, or wherever it is to go.
//
//	box := outbox.New(app, outbox.Config{})
//	err := box.Tx(ctx, nil, func(tx *outbox.Tx) error { // ctx is in a tenant
//		if _, err := tx.ExecContext(ctx, "INSERT INTO orders (item) VALUES ($1)", "hammer"); err != nil {
//			return err
//		}
//		return tx.Add(ctx, "order-mail", map[string]string{"item": "hammer"})
//	})
//
// and in one process or several
//
//	err := box.Run(ctx, func(ctx context.Context, t tenancy.Tenant, m outbox.Message) error {
//		return enqueue(ctx, t.Ref(), m) // into the queue
//	})
//
// The application adds [Shared] and [Tenant] to its sets of migrations.
//
// # What is promised
//
// A message whose transaction was committed is delivered at least once, in the order of its tenant's IDs among those that
// are committed by then; one whose transaction was rolled back, never. It may be delivered twice (when a dispatcher dies
// between delivering it and removing it): tenant and ID together are the same both times, so that the receiver can tell.
//
// # Who has work
//
// A dispatcher does not ask all tenants. Before its transaction begins, whoever is to add messages marks the tenant in
// the shared store, so that the work of a dispatcher grows with the tenants that have had some in the last minutes. The
// mark is written once in half of [Config.Grace] for each process and tenant.
//
// A mark is good for [Config.Grace], by the database's clock: a message that is added later than that after the transaction
// began is refused ([ErrTooLate]), by the statement that would have added it. A dispatcher removes a mark that is twice as
// old, when the tenant's outbox is empty and nobody is in a transaction that has added to it. So no message is left without
// a mark, and nobody holds a connection while waiting for another.
package outbox
