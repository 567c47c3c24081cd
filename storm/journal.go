package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/tenement-go/tenement/tenancy"
)

// A journal is what a process knows of its writes, outside of the databases: an append-only file of lines, each written
// at once, so that it survives the process's being killed (not the machine's). The first letter of a line says what it is.
const (
	lineBegin   = 'b' // WRITE TENANT PARTS: about to be written
	lineAck     = 'a' // WRITE TIME: acknowledged
	lineUnknown = 'u' // WRITE: failed so that nobody knows; as if there were no line
	lineNever   = 'n' // WRITE: rolled back, or refused: must not be there
	lineChange  = 'c' // TENANT BEGAN VERSION STATUS SLUG: what an acknowledged change, its creation too, has made of it
	lineReading = 'r' // CONTENT: what a store had in it before the purge of its tenant was asked for
	linePurging = 'p' // TENANT: its purge is about to be asked for
	lineAsked   = 'q' // TENANT TIME: the call is over that asked for it
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
	line := strconv.AppendUint(append(j.buf[:0], outcome, ' '), w, 10)
	if outcome == lineAck {
		line = strconv.AppendInt(append(line, ' '), time.Now().UnixNano(), 10)
	}
	j.write(line)
}

// changed writes what a change that was asked for at began has made of a tenant.
func (j *journal) changed(t tenancy.Tenant, began time.Time) {
	j.note(lineChange, fmt.Sprintf("%s %d %d %s %s", t.ID, began.UnixNano(), t.Version, t.Status, t.Slug))
}

// reading writes what a store has in it.
func (j *journal) reading(c content) error {
	text, err := json.Marshal(c)
	if err == nil {
		j.note(lineReading, string(text))
	}
	return err
}

// asked writes that a purge that was asked for is not asked for any more.
func (j *journal) asked(id tenancy.ID) {
	j.note(lineAsked, fmt.Sprintf("%s %d", id, time.Now().UnixNano()))
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
	late    bool  // begun when its process knew that the tenant was purged
	at      int64 // when it was acknowledged
}

// state is what an acknowledged change has made of a tenant.
type state struct {
	version int64
	status  tenancy.Status
	slug    string
}

// record is the journals' content. Times are nanoseconds since 1970.
type record struct {
	writes   map[uint64]write
	of       map[string][]uint64 // the writes of each tenant
	tenants  []string
	numbers  map[string]int32
	readings []content

	made    map[string]bool            // those that were in service, as what was acknowledged shows
	states  map[string]map[int64]state // of each tenant, by version, those that were acknowledged
	alive   map[string]int64           // when the last change was asked for after which it was not deleted
	purging map[string]int64           // when nobody who had asked for its purge was at it any more
	gone    map[string]bool

	here struct { // by the journal that is being read, whose lines are in the order of what they say
		gone  map[string]bool
		asked map[string]int // how many are at its purge
	}
	ops      int
	errors   map[string]int
	breaches []string
}

func readJournals(dir string) (*record, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.journal"))
	if err != nil {
		return nil, err
	}
	r := &record{
		writes: map[uint64]write{}, of: map[string][]uint64{}, numbers: map[string]int32{}, made: map[string]bool{}, states: map[string]map[int64]state{},
		alive: map[string]int64{}, purging: map[string]int64{}, gone: map[string]bool{}, errors: map[string]int{},
	}
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
	r.here.gone, r.here.asked = map[string]bool{}, map[string]int{}
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<26) // a reading is one
	lines.Split(wholeLines)
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
	for id, n := range r.here.asked {
		if n > 0 {
			r.purging[id] = math.MaxInt64 // the process was killed, and who goes on with it says nothing of when
		}
	}
	return lines.Err()
}

// wholeLines is [bufio.ScanLines] without a last line that has no end: its process was killed while it wrote that.
func wholeLines(data []byte, atEOF bool) (advance int, token []byte, err error) {
	if atEOF && bytes.IndexByte(data, '\n') < 0 {
		return len(data), nil, nil
	}
	return bufio.ScanLines(data, atEOF)
}

// mayBeGone reports whether a tenant's purge was asked for, and nobody saw it alive when that was over.
func (r *record) mayBeGone(tenant string) bool {
	over, asked := r.purging[tenant]
	return r.gone[tenant] || asked && r.alive[tenant] <= over
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
		return r.begun(rest)
	case lineAck, lineUnknown, lineNever:
		return r.ended(kind, rest)
	case lineChange:
		return r.changed(rest)
	case lineReading:
		var c content
		err := json.Unmarshal([]byte(rest), &c)
		r.readings = append(r.readings, c)
		return err
	case linePurging:
		r.here.asked[rest]++
	case lineAsked:
		var id string
		var at int64
		_, err := fmt.Sscan(rest, &id, &at)
		r.here.asked[id]--
		r.purging[id] = max(r.purging[id], at)
		return err
	case lineGone:
		r.gone[rest], r.here.gone[rest] = true, true
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

func (r *record) begun(rest string) error {
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
	r.writes[w] = write{tenant: r.number(tenant), parts: int16(n), outcome: lineUnknown, late: r.here.gone[tenant]}
	r.of[tenant] = append(r.of[tenant], w)
	return nil
}

func (r *record) ended(outcome byte, rest string) error {
	number, at, _ := strings.Cut(rest, " ")
	n, err := strconv.ParseUint(number, 10, 64)
	if err != nil {
		return err
	}
	w, begun := r.writes[n]
	if !begun {
		return fmt.Errorf("write %d was not begun", n)
	}
	w.outcome = outcome
	if outcome == lineAck {
		if w.at, err = strconv.ParseInt(at, 10, 64); err != nil {
			return err
		}
		tenant := r.tenants[w.tenant]
		r.made[tenant] = true
		if w.late {
			r.breaches = append(r.breaches, fmt.Sprintf("wrong: write %d of tenant %s was acknowledged after its purge was", n, tenant))
		}
	}
	r.writes[n] = w
	return nil
}

func (r *record) changed(rest string) error {
	var id string
	var began int64
	var now state
	if _, err := fmt.Sscan(rest, &id, &began, &now.version, &now.status, &now.slug); err != nil {
		return err
	}
	if r.states[id] == nil {
		r.states[id] = map[int64]state{}
	}
	if before, twice := r.states[id][now.version]; twice && before != now {
		r.breaches = append(r.breaches, fmt.Sprintf("lost: of tenant %s version %d was acknowledged twice, %s (%s) and %s (%s)",
			id, now.version, before.slug, before.status, now.slug, now.status))
	}
	r.states[id][now.version] = now
	if now.status.Served() || now.status == tenancy.Suspended {
		r.made[id] = true
	}
	if now.status != tenancy.Deleted {
		r.alive[id] = max(r.alive[id], began)
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
