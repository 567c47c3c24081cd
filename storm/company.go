package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// company is the processes of a storm.
type company struct {
	st    *stage
	order order

	version     int // of the last fleet migration
	incarnation int
	serving     []*process
	migrating   []*process
	died        []string // of those that were to be killed, and were dead
	done        map[faultKind]int
	deeds       int // in calm weather
}

// process is one of them.
type process struct {
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  io.Reader
	done chan struct{}
	err  error

	doomed bool // is to be killed while it migrates
}

func (c *company) start(change func(*order)) (*process, error) {
	c.incarnation++
	o := c.order
	o.Incarnation = c.incarnation
	change(&o)
	text, err := json.Marshal(o)
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	p := &process{cmd: exec.Command(self), done: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), envOrder+"="+string(text))
	p.cmd.Stderr = os.Stderr
	if p.out, err = p.cmd.StdoutPipe(); err != nil {
		return nil, err
	}
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// ready waits until the process says something, or is over.
func (p *process) ready() { _, _ = p.out.Read(make([]byte, 1)) }

func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	<-p.done
}

// died says that the process ended as no process should: with an error, or of a panic. What it had to say of that is in the
// standard error. It is called when the process is over; that somebody killed it is nothing.
func (p *process) died() []string {
	if p.err != nil && !p.killed() {
		return []string{fmt.Sprintf("died: a process: %v", p.err)}
	}
	return nil
}

// killed reports whether the process, which is over, was killed before it ended by itself.
func (p *process) killed() bool {
	status, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus)
	return ok && status.Signaled() && status.Signal() == syscall.SIGKILL
}

// stop has the process end by itself, and returns an error when it does not.
func (p *process) stop(within time.Duration) error {
	_ = p.in.Close()
	select {
	case <-p.done:
		if p.err != nil {
			return fmt.Errorf("died: a process that was to end: %w", p.err)
		}
		return nil
	case <-time.After(within):
		p.kill()
		return fmt.Errorf("hung: a process did not end within %v", within)
	}
}

func (c *company) serve() error {
	p, err := c.start(func(*order) {})
	if err == nil {
		c.serving = append(c.serving, p)
	}
	return err
}

// inflict does one fault, and counts it if it was done. Whether a migrator was killed is known when it is over.
func (c *company) inflict(ctx context.Context, f fault) error {
	err := c.do(ctx, f)
	if err == nil && f.kind != faultMigrKill {
		c.done[f.kind]++
	}
	return err
}

// counted counts the fault that a migrator was, when that is over: it may have been done before it was to be killed.
func (c *company) counted(p *process) {
	switch {
	case p.doomed && p.killed():
		c.done[faultMigrKill]++
	case p.doomed:
		c.done[faultMigrate]++
	}
}

func (c *company) do(ctx context.Context, f fault) error {
	switch f.kind {
	case faultKill:
		i := int(f.arg % uint64(len(c.serving)))
		c.serving[i].kill()
		c.died = append(c.died, c.serving[i].died()...)
		c.serving = append(c.serving[:i], c.serving[i+1:]...)
		return c.serve()
	case faultTerminate:
		return c.st.terminate(ctx, f.arg)
	case faultCut:
		c.st.proxy.CutAll()
	case faultCrash:
		return errors.Join(c.st.cluster.Kill(ctx), c.st.cluster.Revive(ctx))
	case faultMigrate, faultMigrKill:
		return c.migrate(ctx, f)
	case faultDisk:
		return fillDisk(c.st.stores, time.Duration(200+f.arg%600)*time.Millisecond)
	}
	return nil
}

// migrate has three processes bring all stores to the next version at once. It begins when the fleet run before is over, as
// deploys do: on a machine that is too slow for the schedule they would pile up, and all take longer and longer.
func (c *company) migrate(ctx context.Context, f fault) error {
	for _, p := range c.migrating {
		select {
		case <-p.done: // it ends itself, after migrationLimit at the latest
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	c.version = min(c.version+1, newest)
	var both []*process
	for range 3 {
		p, err := c.start(func(o *order) { o.Migrate = c.version })
		if err != nil {
			return err
		}
		both = append(both, p)
	}
	c.migrating = append(c.migrating, both...)
	both[0].doomed = f.kind == faultMigrKill
	go func() {
		for _, p := range both {
			p.ready()
		}
		for _, p := range both { // all at once
			_, _ = p.in.Write([]byte{'\n'})
		}
		if both[0].doomed {
			time.Sleep(time.Duration(f.arg % uint64(400*time.Millisecond)))
			_ = both[0].cmd.Process.Kill()
		}
	}()
	return nil
}
