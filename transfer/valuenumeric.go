package transfer

import (
	"math"
	"math/big"
	"strconv"
	"strings"
)

// decimal is a number as its digits: (-1)^neg × digits × 10^-scale. digits has no leading zeros but for "0".
type decimal struct {
	neg    bool
	digits string
	scale  int // digits behind the point; never negative
}

// maxExponent bounds what an exponent makes of a short text; Postgres itself takes up to 131072 digits.
const maxExponent = 20000

// parseDecimal reads digits with an optional sign, point and exponent.
func parseDecimal(s string) (d decimal, ok bool) {
	switch {
	case strings.HasPrefix(s, "-"):
		d.neg, s = true, s[1:]
	case strings.HasPrefix(s, "+"):
		s = s[1:]
	}
	mantissa, exp := s, 0
	if i := strings.IndexAny(s, "eE"); i >= 0 {
		n, err := strconv.Atoi(strings.TrimPrefix(s[i+1:], "+"))
		if err != nil || n > maxExponent || n < -maxExponent {
			return d, false
		}
		mantissa, exp = s[:i], n
	}
	whole, fraction, _ := strings.Cut(mantissa, ".")
	digits := whole + fraction
	if digits == "" || strings.Trim(digits, "0123456789") != "" {
		return d, false
	}
	d.scale = len(fraction) - exp
	if d.scale < 0 {
		digits += strings.Repeat("0", -d.scale)
		d.scale = 0
	}
	if digits = strings.TrimLeft(digits, "0"); digits == "" {
		digits, d.neg = "0", false
	}
	d.digits = digits
	return d, true
}

func (d decimal) String() string {
	digits := d.digits
	if len(digits) <= d.scale {
		digits = strings.Repeat("0", d.scale+1-len(digits)) + digits
	}
	if d.scale > 0 {
		digits = digits[:len(digits)-d.scale] + "." + digits[len(digits)-d.scale:]
	}
	if d.neg {
		digits = "-" + digits
	}
	return digits
}

// bare is the number without trailing zeros behind the point.
func (d decimal) bare() decimal {
	for d.scale > 0 && strings.HasSuffix(d.digits, "0") {
		d.digits, d.scale = d.digits[:len(d.digits)-1], d.scale-1
		if d.digits == "" {
			d.digits = "0"
		}
	}
	if d.digits == "0" {
		d.scale = 0
	}
	return d
}

// sameDecimal reports whether two texts are the same number.
func sameDecimal(a, b string) bool {
	x, ok := parseDecimal(a)
	y, fine := parseDecimal(b)
	return ok && fine && x.bare() == y.bare()
}

func toNumeric(t Type, v any, may Loss) (any, error) {
	var text string
	scaled := true // the value says how many zeros are at its end
	switch v := v.(type) {
	case int64:
		text, scaled = strconv.FormatInt(v, 10), false
	case float64:
		switch {
		case math.IsInf(v, 1):
			text = "Infinity"
		case math.IsInf(v, -1):
			text = "-Infinity"
		default:
			text, scaled = shortest(v), false
		}
	case string:
		text = v
	default:
		return refuse("%s is no number", show(v))
	}
	switch text {
	case "NaN":
		return text, nil
	case "Infinity", "-Infinity":
		if t.Precision > 0 {
			return refuse("%s does not fit into %s", text, t)
		}
		return text, nil
	}
	d, ok := parseDecimal(text)
	if !ok {
		return refuse("%s is no number", show(v))
	}
	if t.Precision == 0 {
		return d.String(), nil
	}
	return d.fit(t, scaled, may)
}

// fit gives the number the scale of its column.
func (d decimal) fit(t Type, scaled bool, may Loss) (any, error) {
	given := d
	d = d.bare()
	switch {
	case d.scale > t.Scale && may&LossInexact == 0:
		return refuse("%s has more than %d digits behind the point", given, t.Scale)
	case d.scale > t.Scale:
		d = d.round(t.Scale)
	case scaled && given.scale != t.Scale && may&LossScale == 0:
		return refuse("%s would become a number with %d digits behind the point", given, t.Scale)
	}
	if n := t.Scale - d.scale; n > 0 {
		d.digits, d.scale = strings.TrimLeft(d.digits+strings.Repeat("0", n), "0"), t.Scale
		if d.digits == "" {
			d.digits = "0"
		}
	}
	if d.digits != "0" && len(d.digits) > t.Precision {
		return refuse("%s does not fit into %s", given, t)
	}
	return d.String(), nil
}

// round cuts the number to a scale, half away from zero, as Postgres does.
func (d decimal) round(scale int) decimal {
	n, _ := new(big.Int).SetString(d.digits, 10)
	pow := new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(d.scale-scale)), nil)
	half := new(big.Int).Rsh(pow, 1)
	n.Add(n, half).Quo(n, pow)
	d.digits, d.scale = n.String(), scale
	if d.digits == "0" {
		d.neg = false
	}
	return d
}
