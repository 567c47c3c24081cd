package transfer

import (
	"fmt"
	"math"
	"strings"
	"time"
)

// moment is a point in time as its text has it: Postgres' years go from 4713 BC to 294276, beyond what time.Parse reads.
type moment struct {
	year, month, day int
	bc               bool
	micros           int64 // of the day; 24:00:00 is allowed
}

// microsPerDay is a day without leap seconds, as all three count it.
const microsPerDay = 24 * 60 * 60 * 1e6

// infinite are the texts of Postgres for what is before and after all dates.
func infinite(s string) bool { return s == "infinity" || s == "-infinity" }

// cutNumber reads from 1 to most digits at the beginning of s.
func cutNumber(s string, least, most int) (n int, rest string, ok bool) {
	i := 0
	for i < len(s) && i < most && s[i] >= '0' && s[i] <= '9' {
		n = n*10 + int(s[i]-'0')
		i++
	}
	return n, s[i:], i >= least
}

// cutDate reads YYYY-MM-DD at the beginning of s.
func cutDate(s string) (m moment, rest string, ok bool) {
	if m.year, rest, ok = cutNumber(s, 4, 6); !ok || !strings.HasPrefix(rest, "-") {
		return m, s, false
	}
	if m.month, rest, ok = cutNumber(rest[1:], 2, 2); !ok || !strings.HasPrefix(rest, "-") {
		return m, s, false
	}
	if m.day, rest, ok = cutNumber(rest[1:], 2, 2); !ok {
		return m, s, false
	}
	return m, rest, true
}

// valid reports whether there is such a day.
func (m moment) valid() bool {
	if m.year == 0 || m.month < 1 || m.month > 12 || m.day < 1 {
		return false // there is no year 0 in Postgres
	}
	return m.day <= time.Date(m.astronomical(), time.Month(m.month)+1, 0, 0, 0, 0, 0, time.UTC).Day()
}

func (m moment) astronomical() int {
	if m.bc {
		return 1 - m.year
	}
	return m.year
}

// cutClock reads HH:MM, HH:MM:SS or HH:MM:SS.ffffff at the beginning of s. finer says that digits that are not 0 were cut.
func cutClock(s string, decimals int) (micros int64, rest string, finer, ok bool) {
	h, rest, ok := cutNumber(s, 2, 2)
	if !ok || !strings.HasPrefix(rest, ":") {
		return 0, s, false, false
	}
	m, rest, ok := cutNumber(rest[1:], 2, 2)
	if !ok {
		return 0, s, false, false
	}
	sec := 0
	if strings.HasPrefix(rest, ":") {
		if sec, rest, ok = cutNumber(rest[1:], 2, 2); !ok {
			return 0, s, false, false
		}
	}
	fraction := int64(0)
	if strings.HasPrefix(rest, ".") {
		if fraction, rest, finer, ok = cutFraction(rest[1:], decimals); !ok {
			return 0, s, false, false
		}
	}
	micros = (int64(h)*3600+int64(m)*60+int64(sec))*1e6 + fraction
	return micros, rest, finer, m < 60 && sec < 60 && micros <= microsPerDay
}

// cutFraction reads the digits behind the point as microseconds.
func cutFraction(s string, decimals int) (micros int64, rest string, finer, ok bool) {
	unit := int64(1e5)
	i := 0
	for ; i < len(s) && s[i] >= '0' && s[i] <= '9'; i++ {
		digit := int64(s[i] - '0')
		switch {
		case i < decimals:
			micros += digit * unit
		case digit != 0:
			finer = true
		}
		unit /= 10
	}
	return micros, s[i:], finer, i > 0
}

// appendDigits appends a number with at least so many digits. These texts are made once for each value that is moved.
func appendDigits(b []byte, n int64, width int) []byte {
	var digits [20]byte
	at := len(digits)
	for ; n > 0 || width > 0; width-- {
		at--
		digits[at] = byte('0' + n%10)
		n /= 10
	}
	return append(b, digits[at:]...)
}

func (m moment) appendDate(b []byte) []byte {
	b = append(appendDigits(b, int64(m.year), 4), '-')
	b = append(appendDigits(b, int64(m.month), 2), '-')
	return appendDigits(b, int64(m.day), 2)
}

func appendClock(b []byte, micros int64) []byte {
	s := micros / 1e6
	b = append(appendDigits(b, s/3600, 2), ':')
	b = append(appendDigits(b, s/60%60, 2), ':')
	b = append(appendDigits(b, s%60, 2), '.')
	return appendDigits(b, micros%1e6, 6)
}

func (m moment) appendEra(b []byte) []byte {
	if m.bc {
		b = append(b, " BC"...)
	}
	return b
}

func (m moment) date() string { return string(m.appendEra(m.appendDate(nil))) }

func clock(micros int64) string { return string(appendClock(nil, micros)) }

func (m moment) timestamp() string {
	b := append(m.appendDate(make([]byte, 0, 32)), ' ')
	return string(m.appendEra(appendClock(b, m.micros)))
}

// shifted is the moment some seconds later.
func (m moment) shifted(seconds int) moment {
	t := time.Date(m.astronomical(), time.Month(m.month), m.day, 0, 0, seconds, 0, time.UTC).Add(time.Duration(m.micros) * time.Microsecond)
	return momentOf(t)
}

func momentOf(t time.Time) moment {
	t = t.UTC()
	m := moment{year: t.Year(), month: int(t.Month()), day: t.Day()}
	if m.year <= 0 {
		m.bc, m.year = true, 1-m.year
	}
	m.micros = int64(t.Hour()*3600+t.Minute()*60+t.Second())*1e6 + int64(t.Nanosecond()/1e3)
	return m
}

// parseMoment reads a date with or without a time of the day and a zone.
func parseMoment(s string, zoned bool, decimals int, may Loss) (m moment, err error) {
	s, bc := strings.CutSuffix(s, " BC")
	m, rest, ok := cutDate(s)
	m.bc = bc
	if !ok || !m.valid() {
		return m, refusal("it is no point in time")
	}
	if rest == "" {
		return m, nil
	}
	if rest[0] != ' ' && rest[0] != 'T' {
		return m, refusal("it is no point in time")
	}
	var finer bool
	if m.micros, rest, finer, ok = cutClock(rest[1:], decimals); !ok {
		return m, refusal("it is no point in time")
	}
	if finer && may&LossDigits == 0 {
		return m, refusal(fmt.Sprintf("it has more than %d digits of a second", decimals))
	}
	offset, ok := parseZone(strings.TrimPrefix(rest, " "))
	switch {
	case !ok:
		return m, refusal("it is no point in time")
	case offset != 0 && !zoned:
		return m, refusal("it has an offset from UTC, for which there is no room")
	case offset != 0 || m.micros == microsPerDay:
		m = m.shifted(-offset)
	}
	return m, nil
}

// parseZone reads an offset from UTC in seconds. None is UTC, as SQLite's functions have it.
func parseZone(s string) (seconds int, ok bool) {
	if s == "" || s == "Z" || s == "UTC" {
		return 0, true
	}
	sign := 1
	switch s[0] {
	case '+':
	case '-':
		sign = -1
	default:
		return 0, false
	}
	h, rest, ok := cutNumber(s[1:], 2, 2)
	if !ok || h > 15 {
		return 0, false
	}
	m, sec := 0, 0
	if rest != "" {
		if m, rest, ok = cutNumber(strings.TrimPrefix(rest, ":"), 2, 2); !ok || m > 59 {
			return 0, false
		}
	}
	if rest != "" {
		if sec, rest, ok = cutNumber(strings.TrimPrefix(rest, ":"), 2, 2); !ok || sec > 59 {
			return 0, false
		}
	}
	return sign * (h*3600 + m*60 + sec), rest == ""
}

// The numbers that SQLite's functions take for times ('auto'): Julian days up to julianEnd, then seconds since 1970.
const (
	julianEnd   = 5373484.5
	secondsEnd  = 253402300800 // of the year 9999
	julian1970  = 2440587.5
	secondsFrom = -62135596800 // of the year 1
)

// momentOfNumber reads seconds since 1970, or a Julian day where it has a fraction.
func momentOfNumber(v any) (m moment, err error) {
	switch v := v.(type) {
	case int64:
		if v >= 0 && float64(v) < julianEnd {
			return m, refusal(fmt.Sprintf("%d may be a Julian day or seconds since 1970", v))
		}
		if v < secondsFrom || v >= secondsEnd {
			return m, refusal(fmt.Sprintf("%d is no number of seconds since 1970 in the years 1 to 9999", v))
		}
		return momentOf(time.Unix(v, 0)), nil
	case float64:
		if v >= 0 && v < julianEnd {
			// SQLite's functions count milliseconds; what they made comes out as it was.
			ms := math.Round((v - julian1970) * 86400000)
			if ms/86400000+julian1970 != v {
				return m, refusal(shortest(v) + " is no Julian day of whole milliseconds")
			}
			return momentOf(time.UnixMilli(int64(ms))), nil
		}
		if v < secondsFrom || v >= secondsEnd || math.Round(v*1e6)/1e6 != v {
			return m, refusal(shortest(v) + " is no number of seconds since 1970 in the years 1 to 9999")
		}
		return momentOf(time.UnixMicro(int64(math.Round(v * 1e6)))), nil
	}
	return m, refusal(show(v) + " is no point in time")
}

// momentFrom reads a moment from whatever a column of SQLite has.
func momentFrom(t Type, v any, may Loss) (m moment, err error) {
	if s, ok := v.(string); ok {
		if m, err = parseMoment(s, t.Kind == TimestampTZ, t.decimals(), may); err != nil {
			return m, refusal(show(v) + ": " + err.Error())
		}
		return m, nil
	}
	return momentOfNumber(v)
}

func toTimestamp(t Type, v any, may Loss) (any, error) {
	if s, ok := v.(string); ok && infinite(s) {
		return s, nil
	}
	m, err := momentFrom(t, v, may)
	if err != nil {
		return nil, err
	}
	return m.timestamp(), nil
}

func toDate(_ Type, v any, may Loss) (any, error) {
	if s, ok := v.(string); ok && infinite(s) {
		return s, nil
	}
	m, err := momentFrom(Type{Kind: Date}, v, may)
	if err != nil {
		return nil, err
	}
	if m.micros != 0 {
		return refuse("%s has a time of the day", show(v))
	}
	return m.date(), nil
}

func toTime(t Type, v any, may Loss) (any, error) {
	s, ok := v.(string)
	if !ok {
		return refuse("%s is no time of the day", show(v))
	}
	micros, rest, finer, ok := cutClock(s, t.decimals())
	switch {
	case !ok || rest != "":
		return refuse("%s is no time of the day", show(v))
	case finer && may&LossDigits == 0:
		return refuse("%s has more than %d digits of a second", show(v), t.decimals())
	}
	return clock(micros), nil
}
