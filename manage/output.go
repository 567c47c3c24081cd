package manage

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// errHelp is what a command returns when it was asked for its help and has given it.
var errHelp = flag.ErrHelp

func isTerminal(stream any) bool {
	file, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(file.Fd()))
}

// printable replaces what a terminal would obey instead of showing: names and rows are other people's. Line breaks stay.
func printable(text string) string {
	if strings.IndexFunc(text, unprintable) < 0 {
		return text
	}
	var b strings.Builder
	for _, r := range text {
		if unprintable(r) {
			fmt.Fprintf(&b, "\\u%04x", r)
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}

func unprintable(r rune) bool { return r != '\n' && r != '\t' && (unicode.IsControl(r) || isBidi(r)) }

// isBidi reports the marks that make text look like other text.
func isBidi(r rune) bool {
	return r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069 || r == 0x200e || r == 0x200f
}

// said is an error as a user sees it. The library's name is of no use behind the program's.
func said(err error) string { return strings.ReplaceAll(printable(err.Error()), "tenement: ", "") }

// cell is text on one line.
func cell(text string) string {
	return printable(strings.NewReplacer("\r\n", `\n`, "\n", `\n`, "\t", `\t`).Replace(text))
}

// measured is how many rows of a table decide on the width of its columns. They are kept until then; the rest is
// written as it comes, so that a table takes bounded memory.
const measured = 1000

// table writes rows in aligned columns.
type table struct {
	w      *bufio.Writer
	widths []int
	rows   [][]string
	fixed  bool
	count  int
}

func newTable(w io.Writer, header ...string) *table {
	return &table{w: bufio.NewWriter(w), rows: [][]string{header}}
}

func (t *table) add(cells ...string) {
	t.count++
	for i := range cells {
		cells[i] = cell(cells[i])
	}
	if t.fixed {
		t.write(cells)
		return
	}
	if t.rows = append(t.rows, cells); len(t.rows) > measured {
		t.fix()
	}
}

func (t *table) fix() {
	t.fixed = true
	for _, row := range t.rows {
		for i, c := range row {
			if i == len(t.widths) {
				t.widths = append(t.widths, 0)
			}
			t.widths[i] = max(t.widths[i], utf8.RuneCountInString(c))
		}
	}
	for _, row := range t.rows {
		t.write(row)
	}
	t.rows = nil
}

func (t *table) write(row []string) {
	var b strings.Builder
	for i, c := range row {
		b.WriteString(c)
		if i < len(row)-1 {
			b.WriteString(strings.Repeat(" ", max(0, t.widths[i]-utf8.RuneCountInString(c))+2))
		}
	}
	_, _ = t.w.WriteString(strings.TrimRight(b.String(), " ") + "\n") // an error comes again from Flush
}

// end writes what is left.
func (t *table) end() error {
	if !t.fixed {
		t.fix()
	}
	return t.w.Flush()
}

// writeJSON writes v for people and programs to read.
func writeJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// list writes a JSON array value by value.
type list struct {
	w    *bufio.Writer
	more bool
}

func newList(w io.Writer) *list { return &list{w: bufio.NewWriter(w)} }

func (l *list) add(v any) error {
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return err
	}
	lead := "[\n  "
	if l.more {
		lead = ",\n  "
	}
	l.more = true
	_, err := l.w.WriteString(lead + strings.TrimSuffix(b.String(), "\n"))
	return err
}

func (l *list) end() error {
	tail := "\n]\n"
	if !l.more {
		tail = "[]\n"
	}
	_, _ = l.w.WriteString(tail)
	return l.w.Flush()
}

// errDeclined: the user thought better of it.
var errDeclined = errors.New("not confirmed; nothing was changed")

// confirm asks the user to type word before something that cannot be undone. It returns an error that names the remedy
// where there is nobody to ask.
func (t *tree) confirm(cmd *cobra.Command, yes bool, word, what string) error {
	if yes {
		return nil
	}
	if !t.cfg.terminal(cmd.InOrStdin()) {
		return usage(cmd, "it %s; without a terminal to ask on, say so with --yes", what)
	}
	return t.askFor(cmd, word, what)
}

// confirmTyped is confirm for what destroys: nothing stands for the word but the word, typed on the terminal or given.
func (t *tree) confirmTyped(cmd *cobra.Command, typed, word, what string) error {
	switch {
	case typed == word:
		return nil
	case cmd.Flags().Changed("confirm"):
		return usage(cmd, "it %s; --confirm says %s", what, printable(typed))
	case !t.cfg.terminal(cmd.InOrStdin()):
		return usage(cmd, "it %s; without a terminal to ask on, say so with --confirm %s", what, printable(word))
	}
	return t.askFor(cmd, word, what)
}

func (t *tree) askFor(cmd *cobra.Command, word, what string) error {
	fmt.Fprintf(cmd.ErrOrStderr(), "This %s.\nType %s to go on: ", printable(what), printable(word))
	answer, err := readLine(cmd.Context(), cmd.InOrStdin())
	if err != nil {
		fmt.Fprintln(cmd.ErrOrStderr())
		if !errors.Is(err, io.EOF) {
			return fmt.Errorf("%w: %w", errDeclined, err)
		}
		return errDeclined
	}
	if strings.TrimSpace(answer) != word {
		return errDeclined
	}
	return nil
}

// readLine reads a line, no further. It gives up when ctx is done; the read itself cannot be interrupted, and ends with
// the process.
func readLine(ctx context.Context, r io.Reader) (string, error) {
	type result struct {
		line string
		err  error
	}
	done := make(chan result, 1)
	go func() {
		var line []byte
		var one [1]byte
		for {
			n, err := r.Read(one[:])
			if n > 0 && one[0] == '\n' {
				done <- result{string(line), nil}
				return
			}
			line = append(line, one[:n]...)
			if err != nil {
				if errors.Is(err, io.EOF) && len(line) > 0 {
					err = nil
				}
				done <- result{string(line), err}
				return
			}
		}
	}()
	select {
	case r := <-done:
		return r.line, r.err
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
}

// plural is "1 store", "2 stores".
func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}
