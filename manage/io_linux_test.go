package manage_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/manage"
)

// terminal is a pair of ends: somebody types and looks at the one, the program has the other.
func terminal(t *testing.T) (person, program *os.File) {
	t.Helper()
	person, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Skip("no pseudo-terminals: ", err)
	}
	t.Cleanup(func() { _ = person.Close() })
	var number, unlocked uint32
	ioctl(t, person, syscall.TIOCGPTN, unsafe.Pointer(&number))
	ioctl(t, person, syscall.TIOCSPTLCK, unsafe.Pointer(&unlocked))
	program, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|syscall.O_NOCTTY, 0)
	require.NoError(t, err)
	terminals.Store(program, true)
	return person, program
}

// terminals keeps the programs' ends open: a read that nobody waits for any more puts its terminal's state back when it
// ends, and must not meet another terminal under the same number.
var terminals sync.Map

func ioctl(t *testing.T, f *os.File, request uintptr, arg unsafe.Pointer) {
	t.Helper()
	_, _, errno := syscall.Syscall(syscall.SYS_IOCTL, f.Fd(), request, uintptr(arg))
	require.Zero(t, errno)
}

func echoes(t *testing.T, f *os.File) bool {
	t.Helper()
	var state syscall.Termios
	ioctl(t, f, syscall.TCGETS, unsafe.Pointer(&state))
	return state.Lflag&syscall.ECHO != 0
}

// A password is read and not shown; after that the terminal shows what is typed again.
func TestReadPasswordOnATerminal(t *testing.T) {
	t.Parallel()
	person, program := terminal(t)
	require.True(t, echoes(t, program))
	type result struct {
		text string
		err  error
	}
	done := make(chan result)
	stdio := manage.IO{In: program, Out: program, Err: program, Terminal: true}
	go func() {
		text, err := stdio.ReadPassword(t.Context(), "Password: ")
		done <- result{text, err}
	}()
	for echoes(t, program) && t.Context().Err() == nil {
		runtime.Gosched()
	}
	_, err := person.WriteString("correct-horse\n")
	require.NoError(t, err)
	got := <-done
	require.NoError(t, got.err)
	assert.Equal(t, "correct-horse", got.text)
	assert.True(t, echoes(t, program))
	seen, err := bufio.NewReader(person).ReadString('\n')
	require.NoError(t, err)
	assert.Equal(t, "Password: \r\n", seen)
}

// An interrupt ends the question, and leaves no mute terminal behind.
func TestReadPasswordIsInterrupted(t *testing.T) {
	t.Parallel()
	person, program := terminal(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	stdio := manage.IO{In: program, Out: program, Err: program, Terminal: true}
	go func() {
		_, err := stdio.ReadPassword(ctx, "Password: ")
		done <- err
	}()
	for echoes(t, program) && t.Context().Err() == nil {
		runtime.Gosched()
	}
	cancel()
	require.ErrorIs(t, <-done, context.Canceled)
	assert.True(t, echoes(t, program))
	_, err := person.WriteString("\n") // ends the read that nobody waits for
	require.NoError(t, err)
}

func TestReadPasswordFromAPipe(t *testing.T) {
	t.Parallel()
	var said strings.Builder
	stdio := manage.IO{In: strings.NewReader("correct-horse\nnext"), Err: &said}
	text, err := stdio.ReadPassword(t.Context(), "Password: ")
	require.NoError(t, err)
	assert.Equal(t, "correct-horse", text)
	assert.Equal(t, "Password: ", said.String())
}
