package manage

import (
	"context"
	"fmt"
	"io"
	"os"

	"golang.org/x/term"
)

// IO is where a command reads and writes.
type IO struct {
	In       io.Reader // empty with exec --all
	Out, Err io.Writer
	Terminal bool // In is a terminal: somebody can be asked
}

// ReadLine asks for a line of text on Err, and reads it. It returns context.Cause(ctx) when ctx is done first.
func (s IO) ReadLine(ctx context.Context, prompt string) (string, error) {
	fmt.Fprint(s.Err, printable(prompt))
	return readLine(ctx, s.In)
}

// ReadPassword is [IO.ReadLine] for what nobody is to see: on a terminal, what is typed is not shown.
func (s IO) ReadPassword(ctx context.Context, prompt string) (string, error) {
	file, ok := s.In.(*os.File)
	if !s.Terminal || !ok {
		return s.ReadLine(ctx, prompt)
	}
	fd := int(file.Fd())
	before, err := term.GetState(fd)
	if err != nil {
		return "", err
	}
	fmt.Fprint(s.Err, printable(prompt))
	type result struct {
		text []byte
		err  error
	}
	done := make(chan result, 1)
	go func() {
		text, err := term.ReadPassword(fd)
		done <- result{text, err}
	}()
	select {
	case r := <-done:
		fmt.Fprintln(s.Err) // the line break was not shown either
		return string(r.text), r.err
	case <-ctx.Done():
		// The read goes on until the process ends; the terminal must not stay mute for whoever has it next.
		fmt.Fprintln(s.Err)
		_ = term.Restore(fd, before)
		return "", context.Cause(ctx)
	}
}
