package pgtest

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/jackc/pgx/v5"
)

// Primary is what Start has to be told, besides, for a server that StartStandby is to follow.
var Primary = []string{"wal_level=replica", "max_wal_senders=8"}

// StartStandby starts a streaming standby of a server that was started with the settings of Primary, from a copy of
// its data.
// It returns when the standby answers, and is a Cluster like another: what NewDatabase makes on the primary is there too,
// under the same role. The caller calls Stop.
func (c *Cluster) StartStandby(ctx context.Context, settings ...string) (*Cluster, error) {
	if c.supervise == nil {
		return nil, errNotOurs
	}
	return startAny(ctx, c.bin, c, append(append([]string{}, Primary...), settings...))
}

// copyData copies the data of a running server to dir, and returns the label that goes with the copy. Not every
// distribution of Postgres has pg_basebackup.
func (c *Cluster) copyData(ctx context.Context, dir string) (label string, err error) {
	err = c.asAdmin(ctx, func(conn *pgx.Conn) error {
		if _, err := conn.Exec(ctx, `SELECT pg_backup_start('standby', true)`); err != nil {
			return err
		}
		// Files that go meanwhile are an error of cp's, and of nobody else's.
		out, _ := exec.CommandContext(ctx, "cp", "-a", filepath.Join(c.supervise.dir, "data"), dir).CombinedOutput()
		if err := conn.QueryRow(ctx, `SELECT labelfile FROM pg_backup_stop(false)`).Scan(&label); err != nil {
			return err
		}
		for _, own := range []string{"postmaster.pid", "postmaster.opts"} {
			if err := os.Remove(filepath.Join(dir, "data", own)); err != nil {
				return fmt.Errorf("%w (cp: %s)", err, out)
			}
		}
		return nil
	})
	if err != nil {
		return "", fmt.Errorf("pgtest: copying the data: %w", err)
	}
	return label, nil
}

// Promote makes a primary of a standby, and returns when it takes writes.
func (c *Cluster) Promote(ctx context.Context) error {
	err := c.asAdmin(ctx, func(conn *pgx.Conn) error {
		var done bool
		err := conn.QueryRow(ctx, `SELECT pg_promote(true, 60)`).Scan(&done)
		if err == nil && !done {
			err = errors.New("it is not promoted after a minute")
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("pgtest: promoting: %w", err)
	}
	return nil
}

// Kill ends the server as a crash does: it says nothing and saves nothing. See Revive.
func (c *Cluster) Kill(ctx context.Context) error {
	return c.control(ctx, "-m", "immediate", "stop")
}

// Revive starts a server again that was killed, where it was.
func (c *Cluster) Revive(ctx context.Context) error {
	return c.control(ctx, "-l", "log", "start")
}

func (c *Cluster) control(ctx context.Context, args ...string) error {
	if c.supervise == nil {
		return errNotOurs
	}
	return c.supervise.run(ctx, c.bin+"/pg_ctl", append([]string{"-D", "data", "-w", "-t", "120"}, args...)...)
}

var errNotOurs = errors.New("pgtest: the server was not started by this process")

// At returns databaseURL with the address of this server in the place of its own.
func (c *Cluster) At(databaseURL string) (string, error) {
	u, err := url.Parse(databaseURL)
	if err != nil {
		return "", fmt.Errorf("pgtest: %w", err)
	}
	u.Host = c.admin.Host
	return u.String(), nil
}
