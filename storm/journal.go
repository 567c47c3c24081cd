package main

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
)

// A journal is what a process knows of its writes, outside of the databases: an append-only file of lines, each written
// at once, so that it survives the process's being killed (not the machine's). The first letter of a line says what it is.
const (
	lineBegin   = 'b' // WRITE TENANT PARTS: about to be written
	lineAck     = 'a' // WRITE: acknowledged
	lineUnknown = 'u' // WRITE: failed so that nobody knows; as if there were no line
	lineNever   = 'n' // WRITE: rolled back, or refused: must not be there
	lineMade    = 'c' // TENANT: its creation was acknowledged
	linePurging = 'p' // TENANT: its purge is about to be asked for
	lineGone    = 'g' // TENANT: its purge was acknowledged
	lineCount   = 'o' // N: statements so far that were answered
	lineBreach  = '!' // TEXT: an invariant does not hold
	lineError   = 'e' // N TEXT: how often an operation failed thus
)

type journal struct {
	mu    sync.Mutex
	f     *os.File
	buf   []byte
	first uint64
	seq   uint64
}

// incarnationBits of a write's number say which process wrote it.
const incarnationShift = 40

func openJournal(dir string, incarnation int) (*journal, error) {
	f, err := os.OpenFile(filepath.Join(dir, fmt.Sprintf("%04d.journal", incarnation)), os.O_CREATE|os.O_EXCL|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	return &journal{f: f, first: uint64(incarnation) << incarnationShift}, nil
}

func (j *journal) begin(tenant string, parts int) uint64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.seq++
	w := j.first + j.seq
	j.buf = append(j.buf[:0], lineBegin, ' ')
	j.buf = strconv.AppendUint(j.buf, w, 10)
	j.buf = append(append(append(j.buf, ' '), tenant...), ' ')
	j.write(strconv.AppendInt(j.buf, int64(parts), 10))
	return w
}

// end writes how a write came out.
func (j *journal) end(w uint64, outcome byte) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.write(strconv.AppendUint(append(j.buf[:0], outcome, ' '), w, 10))
}

// note writes any other line.
func (j *journal) note(kind byte, text string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.write(append(append(j.buf[:0], kind, ' '), strings.ReplaceAll(text, "\n", " ⏎ ")...))
}

// breach notes that an invariant does not hold.
func (j *journal) breach(format string, args ...any) {
	j.note(lineBreach, fmt.Sprintf(format, args...))
}

func (j *journal) write(line []byte) {
	j.buf = append(line, '\n')
	if _, err := j.f.Write(j.buf); err != nil {
		panic(err) // without a journal nothing that follows means anything
	}
}

// write is what all journals together say about one write.
type write struct {
	tenant  int32 // of record.tenants
	parts   int16
	outcome byte
	late    bool // begun when its process knew that the tenant was purged
}

// record is the journals' content.
type record struct {
	writes   map[uint64]write
	tenants  []string
	numbers  map[string]int32
	made     map[string]bool
	purging  map[string]bool
	gone     map[string]bool
	here     map[string]bool // gone, by the journal that is being read: its lines are in the order of what they say
	ops      int
	errors   map[string]int
	breaches []string
}

func readJournals(dir string) (*record, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.journal"))
	if err != nil {
		return nil, err
	}
	r := &record{writes: map[uint64]write{}, numbers: map[string]int32{}, made: map[string]bool{}, purging: map[string]bool{}, gone: map[string]bool{}, errors: map[string]int{}}
	for _, name := range files {
		if err := r.read(name); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	return r, nil
}

func (r *record) read(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	ops := 0
	r.here = map[string]bool{}
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		text := lines.Text()
		if len(text) < 2 {
			return fmt.Errorf("line %q", text)
		}
		kind, rest := text[0], text[2:]
		if kind == lineCount {
			ops, err = strconv.Atoi(rest)
		} else {
			err = r.line(kind, rest)
		}
		if err != nil {
			return fmt.Errorf("line %q: %w", text, err)
		}
	}
	r.ops += ops
	return lines.Err()
}

// answered is how many statements the journals say were answered. It reads little of them.
func answered(dir string) (ops int, err error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.journal"))
	if err != nil {
		return 0, err
	}
	for _, name := range files {
		n, err := lastCount(name)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", name, err)
		}
		ops += n
	}
	return ops, nil
}

// lastCount is what the last line of its kind says. It is looked for from the end of the journal.
func lastCount(name string) (int, error) {
	f, err := os.Open(name)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	for part := int64(64 << 10); ; part *= 4 {
		from := max(0, info.Size()-part)
		tail := make([]byte, 1+info.Size()-from)
		tail[0] = '\n'
		if _, err := f.ReadAt(tail[1:], from); err != nil {
			return 0, err
		}
		if from > 0 {
			tail = tail[1:]
		}
		if at := bytes.LastIndex(tail, []byte{'\n', lineCount, ' '}); at >= 0 {
			count, _, _ := bytes.Cut(tail[at+3:], []byte("\n"))
			return strconv.Atoi(string(count))
		}
		if from == 0 {
			return 0, nil
		}
	}
}

func (r *record) line(kind byte, rest string) error {
	switch kind {
	case lineBegin:
		number, rest, _ := strings.Cut(rest, " ")
		tenant, parts, _ := strings.Cut(rest, " ")
		w, err := strconv.ParseUint(number, 10, 64)
		if err != nil {
			return err
		}
		n, err := strconv.ParseInt(parts, 10, 16)
		if err != nil {
			return err
		}
		r.writes[w] = write{tenant: r.number(tenant), parts: int16(n), outcome: lineUnknown, late: r.here[tenant]}
	case lineAck, lineUnknown, lineNever:
		n, err := strconv.ParseUint(rest, 10, 64)
		if err != nil {
			return err
		}
		w := r.writes[n]
		w.outcome = kind
		r.writes[n] = w
		if w.late && kind == lineAck {
			r.breaches = append(r.breaches, fmt.Sprintf("wrong: write %d of tenant %s was acknowledged after its purge was", n, r.tenants[w.tenant]))
		}
	case lineMade:
		r.made[rest] = true
	case linePurging:
		r.purging[rest] = true
	case lineGone:
		r.gone[rest], r.here[rest] = true, true
	case lineBreach:
		r.breaches = append(r.breaches, rest)
	case lineError:
		count, what, _ := strings.Cut(rest, " ")
		n, err := strconv.Atoi(count)
		if err != nil {
			return err
		}
		r.errors[what] += n
	}
	return nil
}

func (r *record) number(tenant string) int32 {
	n, ok := r.numbers[tenant]
	if !ok {
		n = int32(len(r.tenants))
		r.tenants = append(r.tenants, tenant)
		r.numbers[tenant] = n
	}
	return n
}
