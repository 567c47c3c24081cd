package transfer

import (
	"math"
	"strconv"
	"strings"
)

// span is an interval as Postgres keeps it.
type span struct{ months, days, micros int64 }

// String is the span in ISO 8601, with nothing carried from one part to another.
func (s span) String() string {
	text := "P"
	if s.months != 0 {
		text += strconv.FormatInt(s.months, 10) + "M"
	}
	if s.days != 0 {
		text += strconv.FormatInt(s.days, 10) + "D"
	}
	if s.micros != 0 || text == "P" {
		text += "T" + decimal{s.micros < 0, strings.TrimPrefix(strconv.FormatInt(s.micros, 10), "-"), 6}.bare().String() + "S"
	}
	return text
}

func toInterval(t Type, v any, may Loss) (any, error) {
	text, ok := v.(string)
	if !ok {
		return refuse("%s is no interval", show(v))
	}
	s, finer, ok := parseSpan(text, t.decimals())
	switch {
	case !ok:
		return refuse("%s is no interval in ISO 8601, such as P1M2DT3.5S", show(v))
	case finer && may&LossDigits == 0:
		return refuse("%s has more than %d digits of a second", show(v), t.decimals())
	}
	return s.String(), nil
}

// parseSpan reads ISO 8601 with designators, with signs as Postgres writes them.
func parseSpan(text string, decimals int) (s span, finer, ok bool) {
	rest, ok := strings.CutPrefix(text, "P")
	if !ok || rest == "" {
		return s, false, false
	}
	inTime := false
	for rest != "" {
		if rest[0] == 'T' && !inTime {
			if inTime, rest = true, rest[1:]; rest == "" {
				return s, false, false
			}
			continue
		}
		end := strings.IndexFunc(rest, func(r rune) bool { return r >= 'A' && r <= 'Z' })
		if end <= 0 {
			return s, false, false
		}
		number, unit := rest[:end], rest[end]
		rest = rest[end+1:]
		cut, fine := s.add(number, unit, inTime, decimals)
		if !fine {
			return s, false, false
		}
		finer = finer || cut
	}
	return s, finer, true
}

// spanUnits are how much of what part of a span a designator stands for; in behind the T.
var spanUnits = map[bool]map[byte]struct {
	part   int
	factor int64
}{
	false: {'Y': {0, 12}, 'M': {0, 1}, 'W': {1, 7}, 'D': {1, 1}},
	true:  {'H': {2, 3600e6}, 'M': {2, 60e6}, 'S': {2, 1e6}},
}

// add adds a part; only seconds may have a fraction.
func (s *span) add(number string, unit byte, inTime bool, decimals int) (finer, ok bool) {
	u, ok := spanUnits[inTime][unit]
	if !ok {
		return false, false
	}
	whole, fraction, fractional := strings.Cut(number, ".")
	n, err := strconv.ParseInt(whole, 10, 64)
	if err != nil || fractional && unit != 'S' || n > math.MaxInt64/u.factor || n < math.MinInt64/u.factor {
		return false, false
	}
	n *= u.factor
	if fractional {
		micros, rest, cut, fine := cutFraction(fraction, decimals)
		if !fine || rest != "" {
			return false, false
		}
		if strings.HasPrefix(whole, "-") {
			micros = -micros
		}
		n, finer = n+micros, cut
	}
	*[]*int64{&s.months, &s.days, &s.micros}[u.part] += n
	return finer, true
}
