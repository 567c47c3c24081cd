package transfer

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"math"
	"strconv"
	"strings"
)

// An array's canonical form is a JSON array, which SQLite's json_each can read: numbers and booleans as such, all else as
// strings (a string of bytes in hexadecimal). An array of several dimensions is one of arrays.

func toArray(t Type, v any, may Loss) (any, error) {
	text, ok := v.(string)
	if !ok {
		return refuse("%s is no array", show(v))
	}
	dec := json.NewDecoder(strings.NewReader(text))
	dec.UseNumber()
	var list []any
	if err := dec.Decode(&list); err != nil || list == nil || !json.Valid([]byte(text)) { // Decode stops behind the first value
		return refuse("%s is no JSON array", show(v))
	}
	if _, ok := shape(list); !ok {
		return refuse("%s: the arrays in it are not all of one length", show(v))
	}
	var b strings.Builder
	if err := writeArray(&b, *t.Elem, list, may); err != nil {
		return nil, err
	}
	return b.String(), nil
}

// shape is the lengths of an array's dimensions; ok is false when it has no such.
func shape(list []any) (lens []int, ok bool) {
	lens = []int{len(list)}
	var inner []int
	for i, e := range list {
		sub, nested := e.([]any)
		var its []int
		if nested {
			if its, ok = shape(sub); !ok || len(sub) == 0 {
				return nil, false
			}
		}
		if i == 0 {
			inner = its
		}
		if len(its) != len(inner) {
			return nil, false
		}
		for k := range its {
			if its[k] != inner[k] {
				return nil, false
			}
		}
	}
	return append(lens, inner...), true
}

func writeArray(b *strings.Builder, elem Type, list []any, may Loss) error {
	b.WriteByte('[')
	for i, e := range list {
		if i > 0 {
			b.WriteByte(',')
		}
		if sub, ok := e.([]any); ok {
			if err := writeArray(b, elem, sub, may); err != nil {
				return err
			}
			continue
		}
		v, err := fromJSON(elem, e)
		if err == nil {
			v, err = toPostgres(elem, v, may)
		}
		if err != nil {
			return err
		}
		writeElem(b, elem, v)
	}
	b.WriteByte(']')
	return nil
}

// fromJSON is an element as toPostgres takes it.
func fromJSON(elem Type, e any) (any, error) {
	switch e := e.(type) {
	case nil:
		return nil, nil
	case bool:
		if e {
			return int64(1), nil
		}
		return int64(0), nil
	case json.Number:
		if n, err := strconv.ParseInt(e.String(), 10, 64); err == nil {
			return n, nil
		}
		return e.String(), nil
	case string:
		if elem.Kind == Bytes {
			b, err := hex.DecodeString(e)
			if err != nil {
				return refuse("%s is not hexadecimal", show(e))
			}
			return b, nil
		}
		return e, nil
	}
	return refuse("an object is no element")
}

// writeElem writes a canonical value into a JSON array.
func writeElem(b *strings.Builder, elem Type, v any) {
	switch v := v.(type) {
	case nil:
		b.WriteString("null")
	case int64:
		if elem.Kind == Bool {
			b.WriteString(strconv.FormatBool(v != 0))
		} else {
			b.WriteString(strconv.FormatInt(v, 10))
		}
	case float64:
		switch {
		case math.IsInf(v, 1):
			b.WriteString(`"Infinity"`)
		case math.IsInf(v, -1):
			b.WriteString(`"-Infinity"`)
		default:
			b.WriteString(shortest(v))
		}
	case []byte:
		b.WriteString(`"` + hex.EncodeToString(v) + `"`)
	case string:
		var buf bytes.Buffer
		enc := json.NewEncoder(&buf)
		enc.SetEscapeHTML(false)
		_ = enc.Encode(v) // a string cannot fail
		b.WriteString(strings.TrimSuffix(buf.String(), "\n"))
	}
}

// parseLiteral reads an array as Postgres writes it, {1,NULL,"a b"}, into its canonical form. Bounds that do not begin
// with 1 are refused.
func parseLiteral(t Type, text string) (any, error) {
	if !strings.HasPrefix(text, "{") {
		return refuse("the array %s does not begin with element 1", show(text))
	}
	p := literal{text: text, elem: *t.Elem}
	if err := p.list(); err != nil {
		return nil, err
	}
	return p.out.String(), nil
}

type literal struct {
	text string
	at   int
	elem Type
	out  strings.Builder
}

func (p *literal) list() error {
	p.at++ // {
	p.out.WriteByte('[')
	for first := true; ; first = false {
		if p.at >= len(p.text) {
			return refusal("an array has no end")
		}
		switch p.text[p.at] {
		case '}':
			p.at++
			p.out.WriteByte(']')
			return nil
		case ',':
			p.at++
		}
		if !first {
			p.out.WriteByte(',')
		}
		if p.at < len(p.text) && p.text[p.at] == '{' {
			if err := p.list(); err != nil {
				return err
			}
			continue
		}
		if err := p.element(); err != nil {
			return err
		}
	}
}

func (p *literal) element() error {
	text, quoted := p.word()
	if text == "NULL" && !quoted {
		p.out.WriteString("null")
		return nil
	}
	v, err := decodeText(&p.elem, text)
	if err != nil {
		return err
	}
	writeElem(&p.out, p.elem, v)
	return nil
}

func (p *literal) word() (text string, quoted bool) {
	if p.at < len(p.text) && p.text[p.at] == '"' {
		var b strings.Builder
		for p.at++; p.at < len(p.text) && p.text[p.at] != '"'; p.at++ {
			if p.text[p.at] == '\\' && p.at+1 < len(p.text) {
				p.at++
			}
			b.WriteByte(p.text[p.at])
		}
		p.at++
		return b.String(), true
	}
	start := p.at
	for p.at < len(p.text) && p.text[p.at] != ',' && p.text[p.at] != '}' {
		p.at++
	}
	return p.text[start:p.at], false
}

// writeLiteral is the reverse of parseLiteral.
func writeLiteral(t Type, canonical string) (string, error) {
	dec := json.NewDecoder(strings.NewReader(canonical))
	dec.UseNumber()
	var list []any
	if err := dec.Decode(&list); err != nil {
		return "", err
	}
	var b strings.Builder
	err := writeLiteralList(&b, *t.Elem, list)
	return b.String(), err
}

func writeLiteralList(b *strings.Builder, elem Type, list []any) error {
	b.WriteByte('{')
	for i, e := range list {
		if i > 0 {
			b.WriteByte(',')
		}
		switch e := e.(type) {
		case []any:
			if err := writeLiteralList(b, elem, e); err != nil {
				return err
			}
		case nil:
			b.WriteString("NULL")
		default:
			v, err := fromJSON(elem, e)
			if err == nil {
				v, err = toPostgres(elem, v, 0)
			}
			var text string
			if err == nil {
				text, err = encodeText(elem, v)
			}
			if err != nil {
				return err
			}
			b.WriteString(`"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(text) + `"`)
		}
	}
	b.WriteByte('}')
	return nil
}
