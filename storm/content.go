package main

import (
	"context"
	"fmt"
	"time"

	"github.com/tenement-go/tenement/tenancy"
)

// content is what a tenant's store has in it at one moment.
type content struct {
	Tenant     tenancy.ID
	Slug, Name string
	Began      int64 // the reading: what was acknowledged until then is in it
	Purged     bool  // it was read for the last time, before a purge
	Rows       map[string][]found
}

// found is what there is of one write under one mark: the write, how many rows, and of how many parts those are.
type found [3]int64

func (s content) String() string {
	text := fmt.Sprintf("tenant %s (%s", s.Tenant, s.Slug)
	if s.Purged {
		text += ", read before a purge"
	}
	return text + ")"
}

// readContent reads the store of the tenant that ctx is in.
func readContent(ctx context.Context, app *tenancy.App, t *tenancy.Tenant) (s content, err error) {
	s = content{Tenant: t.ID, Slug: t.Slug, Name: t.Name, Began: time.Now().UnixNano(), Rows: map[string][]found{}}
	rows, err := app.DB().QueryContext(ctx, `SELECT mark, write_id, count(*), count(DISTINCT part) FROM entries GROUP BY mark, write_id`)
	if err != nil {
		return s, err
	}
	defer rows.Close()
	for rows.Next() {
		var mark string
		var f found
		if err := rows.Scan(&mark, &f[0], &f[1], &f[2]); err != nil {
			return s, err
		}
		s.Rows[mark] = append(s.Rows[mark], f)
	}
	return s, rows.Err()
}

// content compares what a store had in it with the journals. What it has of its own is all that was acknowledged before it
// was read, each write wholly and once, and nothing that was rolled back or refused; of what it has as a clone, each write
// must be whole.
func (c *court) content(s content) {
	own := string(s.Tenant)
	whole := map[uint64]bool{}
	var welcomes int64
	for mark, rows := range s.Rows {
		if mark != own && !ofClone(s.Name, mark) {
			c.v.add("wrong: %v has rows of %q: of write %d among others", s, mark, rows[0][0])
			continue
		}
		for _, f := range rows {
			c.v.Rows += int(f[1])
			switch f[0] {
			case 0: // of its creation
				welcomes += f[1]
			case poison:
			default:
				if c.write(s, mark, f) && mark == own {
					whole[uint64(f[0])] = true
				}
			}
		}
	}
	// One that was deleted before its creation was over may have less than that row.
	if welcomes != 1 && (!s.Purged || c.r.made[own]) {
		c.v.add("lost: %v has not the one row that its creation made", s)
	}
	for _, id := range c.r.of[own] {
		if w := c.r.writes[id]; w.outcome == lineAck && w.at <= s.Began && !whole[id] {
			c.v.add("lost: write %d of %v was acknowledged and is not there", id, s)
		}
	}
	c.until[own] = max(c.until[own], s.Began)
}

// write compares what a store had of a write, and reports whether that is all of it.
func (c *court) write(s content, mark string, f found) bool {
	id, rows, parts := uint64(f[0]), f[1], f[2]
	w, known := c.r.writes[id]
	switch {
	case !known || c.r.tenants[w.tenant] != mark:
		c.v.add("wrong: %v has write %d, which is not its own", s, id)
	case w.outcome == lineNever:
		c.v.add("wrong: %v has write %d, which was rolled back or refused", s, id)
	case rows != int64(w.parts) || parts != int64(w.parts):
		c.v.add("wrong: %v has write %d in %d rows with %d parts, of %d", s, id, rows, parts, w.parts)
	default:
		return true
	}
	return false
}
