package transfer

import (
	"math"
	"strconv"
	"strings"
	"time"
)

// held is what a column of SQLite makes of a value that is put into it: https://www.sqlite.org/datatype3.html, section 3.
func held(a Affinity, v any) any {
	switch a {
	case AffinityText:
		switch v := v.(type) {
		case int64:
			return strconv.FormatInt(v, 10)
		case float64:
			return nil // rendered by SQLite with 15 digits; never the same
		}
	case AffinityNumeric, AffinityReal:
		if s, ok := v.(string); ok {
			if n := numberIn(s); n != nil {
				v = n
			}
		}
		if f, ok := v.(float64); ok && a == AffinityNumeric && f == math.Trunc(f) && math.Abs(f) < 1<<51 {
			return int64(f)
		}
		if n, ok := v.(int64); ok && a == AffinityReal {
			return float64(n)
		}
	}
	return v
}

// numberIn is the number that SQLite sees in a text, or nil.
func numberIn(s string) any {
	s = strings.Trim(s, " \t\n\v\f\r")
	if s == "" || strings.Trim(s, "0123456789+-.eE") != "" {
		return nil
	}
	if n, err := strconv.ParseInt(s, 10, 64); err == nil {
		return n
	}
	if f, err := strconv.ParseFloat(s, 64); err == nil || math.IsInf(f, 0) {
		return f
	}
	return nil
}

// toSQLite returns what is to be put into a column of SQLite for the canonical value v of a type of Postgres. It refuses
// what would come back as another value: the proof is to convert back what the column makes of it.
func toSQLite(from, to Type, v any, may Loss) (any, error) {
	if v == nil {
		return nil, nil
	}
	was := v
	if to.Kind == Int && (from.Kind == Timestamp || from.Kind == TimestampTZ) {
		seconds, ok := unixSeconds(v)
		if !ok {
			return refuse("%s is no whole number of seconds", show(v))
		}
		v = seconds
	}
	if from.Kind == Numeric && to.Affinity != AffinityText && to.Affinity != AffinityNone {
		// In digits SQLite would see a number where it loses nothing by it; here it is made one in any case.
		if s, ok := v.(string); ok && s != "NaN" {
			v = nearest(s)
		}
	}
	in := held(to.Affinity, v)
	back, err := toPostgres(from, in, may)
	if err != nil || !equal(from, was, back, may) {
		return refuse("%s would become %s", show(was), show(in))
	}
	return v, nil
}

// nearest is the integer or the float that is nearest to a number.
func nearest(s string) any {
	d, ok := parseDecimal(s)
	if !ok {
		f, _ := strconv.ParseFloat(s, 64) // ±Infinity
		return f
	}
	if n, err := strconv.ParseInt(d.bare().String(), 10, 64); err == nil {
		return n
	}
	f, _ := strconv.ParseFloat(s, 64)
	if sameDecimal(shortest(f), s) {
		return f
	}
	return s
}

// unixSeconds is a whole number of seconds since 1970.
func unixSeconds(v any) (int64, bool) {
	s, ok := v.(string)
	if !ok {
		return 0, false
	}
	m, err := parseMoment(s, false, 6, 0)
	if err != nil || m.micros%1e6 != 0 {
		return 0, false
	}
	return time.Date(m.astronomical(), time.Month(m.month), m.day, 0, 0, 0, 0, time.UTC).Unix() + m.micros/1e6, true
}

// equal reports whether two canonical values of a type are the same value, but for what may be lost.
func equal(t Type, a, b any, may Loss) bool {
	if t.Kind == Numeric && may&(LossScale|LossInexact) != 0 {
		x, _ := a.(string)
		y, _ := b.(string)
		return may&LossInexact != 0 || sameDecimal(x, y)
	}
	return string(appendValue(nil, t.Kind, a)) == string(appendValue(nil, t.Kind, b))
}
