package transfer

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"sort"
	"strings"
)

func toJSON(t Type, v any, _ Loss) (any, error) {
	var text string
	switch v := v.(type) {
	case string:
		text = v
	case []byte: // how a json.RawMessage gets into SQLite
		text = string(v)
	case int64, float64: // a number in a column of NUMERIC affinity, which is what JSON makes one
		text = show(v)
	default:
		return refuse("%s is no JSON", show(v))
	}
	if err := storable(text); err != nil {
		return nil, err
	}
	if !json.Valid([]byte(text)) {
		return refuse("%s is no JSON", show(v))
	}
	if err := oneOfEachKey(text); err != nil {
		return nil, err
	}
	if t.Binary && strings.Contains(text, `\u0000`) && hasNUL(text) {
		return refuse("the JSON has the character U+0000, which jsonb cannot hold")
	}
	return text, nil
}

// hasNUL looks at what the escapes mean: \\u0000 is a backslash and letters.
func hasNUL(text string) bool {
	dec := json.NewDecoder(strings.NewReader(text))
	for {
		token, err := dec.Token()
		if err != nil {
			return false
		}
		if s, ok := token.(string); ok && strings.IndexByte(s, 0) >= 0 {
			return true
		}
	}
}

// oneOfEachKey refuses an object that has a key twice: of those jsonb keeps the last one only.
func oneOfEachKey(text string) error {
	dec := json.NewDecoder(strings.NewReader(text))
	dec.UseNumber()
	var open []map[string]bool // of each object or array that is open; nil for an array
	expectKey := false
	for {
		token, err := dec.Token()
		switch {
		case err == io.EOF:
			return nil
		case err != nil:
			return refusal("it is no JSON: " + err.Error())
		}
		top := len(open) - 1
		if key, ok := token.(string); ok && expectKey {
			if open[top][key] {
				return refusal(fmt.Sprintf("the JSON has the key %q twice in one object", key))
			}
			open[top][key] = true
			expectKey = false
			continue
		}
		switch token {
		case json.Delim('{'):
			open = append(open, map[string]bool{})
		case json.Delim('['):
			open = append(open, nil)
		case json.Delim('}'), json.Delim(']'):
			open = open[:top]
		}
		expectKey = len(open) > 0 && open[len(open)-1] != nil
	}
}

// jsonValue is what a JSON text means: objects in order of key, numbers as they are counted, without blanks. It returns
// the text itself when that is no JSON, or has a key twice in one object, of which it depends on the reader what counts.
func jsonValue(text string) string {
	if !json.Valid([]byte(text)) || oneOfEachKey(text) != nil {
		return text
	}
	dec := json.NewDecoder(strings.NewReader(text))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		return text
	}
	var b bytes.Buffer
	writeJSON(&b, v)
	return b.String()
}

func writeJSON(b *bytes.Buffer, v any) {
	switch v := v.(type) {
	case map[string]any:
		keys := make([]string, 0, len(v))
		for k := range v {
			keys = append(keys, k)
		}
		sort.Strings(keys)
		b.WriteByte('{')
		for _, k := range keys {
			writeJSON(b, k)
			b.WriteByte(':')
			writeJSON(b, v[k])
			b.WriteByte(',')
		}
		b.WriteByte('}')
	case []any:
		b.WriteByte('[')
		for _, e := range v {
			writeJSON(b, e)
			b.WriteByte(',')
		}
		b.WriteByte(']')
	case json.Number:
		if d, ok := parseDecimal(v.String()); ok {
			b.WriteString(d.bare().String())
		} else {
			b.WriteString(v.String())
		}
	default:
		text, _ := json.Marshal(v) // strings, true, false and null cannot fail
		b.Write(text)
	}
}
