package manage

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"

	"github.com/tenement-go/tenement/migrate"
)

// progress shows how far a run is: a bar on a terminal, a line now and then elsewhere, a line of JSON for each event
// when asked.
type progress struct {
	out, err io.Writer
	json     bool
	bar      *progressbar.ProgressBar
	terminal bool
	next     time.Duration // when the next line is due, since the run began
	told     int           // failures that were printed as they came
	broken   error         // the first error of writing JSON: what is written afterwards does not make up for it
}

func (t *tree) progress(cmd *cobra.Command, asJSON bool) *progress {
	return &progress{out: cmd.OutOrStdout(), err: cmd.ErrOrStderr(), json: asJSON, terminal: t.cfg.terminal(cmd.ErrOrStderr())}
}

const (
	lineEvery  = 5 * time.Second // between two lines of progress
	toldAtMost = 10              // failures printed as they come; the table at the end has the others
)

// eventLine is an event, as JSON has it.
type eventLine struct {
	Event     migrate.EventKind `json:"event"`
	Set       migrate.Set       `json:"set"`
	Store     string            `json:"store,omitempty"`
	Done      int               `json:"done"`
	Failed    int               `json:"failed"`
	Total     int               `json:"total"`
	ElapsedMS int64             `json:"elapsed_ms"`
	Failure   *failure          `json:"failure,omitempty"`
	Reason    string            `json:"reason,omitempty"` // why it is tried again
}

func (p *progress) event(e migrate.Event) {
	switch {
	case p.json:
		p.jsonEvent(e)
	case e.Total == 0:
	case p.terminal:
		p.barEvent(e)
	default:
		p.lineEvent(e)
	}
}

func (p *progress) jsonEvent(e migrate.Event) {
	line := eventLine{
		Event: e.Kind, Set: e.Set, Store: e.Store.String(), Done: e.Done, Failed: e.Failed, Total: e.Total,
		ElapsedMS: e.Elapsed.Milliseconds(),
	}
	var failed *migrate.StoreError
	if errors.As(e.Err, &failed) {
		f := failureOf(failed)
		line.Failure = &f
	} else if e.Err != nil {
		line.Reason = e.Err.Error()
	}
	p.line(line)
}

// line writes a line of JSON. Its error is in p.broken.
func (p *progress) line(v any) {
	enc := json.NewEncoder(p.out)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil && p.broken == nil {
		p.broken = err
	}
}

func newBar(w io.Writer, total int, what string) *progressbar.ProgressBar {
	return progressbar.NewOptions(total,
		progressbar.OptionSetWriter(w),
		progressbar.OptionSetDescription(what),
		progressbar.OptionSetWidth(30),
		progressbar.OptionShowCount(),
		progressbar.OptionThrottle(100*time.Millisecond),
		progressbar.OptionClearOnFinish(),
	)
}

func (p *progress) barEvent(e migrate.Event) {
	if e.Total == 1 {
		return // there is nothing to see
	}
	if p.bar == nil {
		p.bar = newBar(p.err, e.Total, "stores")
	}
	if e.Failed > 0 {
		p.bar.Describe(fmt.Sprintf("stores (%d failed)", e.Failed))
	}
	p.bar.ChangeMax(e.Total)
	_ = p.bar.Set(e.Done)
}

func (p *progress) lineEvent(e migrate.Event) {
	switch e.Kind {
	case migrate.EventStarted:
		p.next = lineEvery
		if e.Set == migrate.SetTenant {
			fmt.Fprintf(p.err, "%s to do\n", plural(e.Total, "store", "stores"))
		}
	case migrate.EventFailed:
		if p.told++; p.told <= toldAtMost && e.Total > 1 {
			fmt.Fprintln(p.err, said(e.Err))
		}
	default:
		if e.Elapsed >= p.next && e.Total > 1 {
			p.next = e.Elapsed + lineEvery
			fmt.Fprintf(p.err, "%d of %d stores done, %d failed\n", e.Done, e.Total, e.Failed)
		}
	}
}

// end takes the bar away.
func (p *progress) end() {
	if p.bar != nil {
		_ = p.bar.Clear()
		_ = p.bar.Exit()
		p.bar = nil
	}
}
