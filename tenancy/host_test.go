package tenancy

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// S40
func TestNormalizeHost(t *testing.T) {
	t.Parallel()
	for host, want := range map[string]string{
		"thor.polls.local":              "thor.polls.local",
		"THOR.Polls.local":              "thor.polls.local",
		"thor.polls.local.":             "thor.polls.local",
		"thor.polls.local:8000":         "thor.polls.local",
		"Thor.polls.local.:8000":        "thor.polls.local",
		"thor.polls.local:":             "thor.polls.local",
		"www.thor.polls.local":          "www.thor.polls.local",
		"localhost":                     "localhost",
		"127.0.0.1:80":                  "127.0.0.1",
		"[::1]:8000":                    "::1",
		"[::1]":                         "::1",
		"::1":                           "::1",
		"[2001:DB8:0::1]":               "2001:db8::1",
		"bücher.example":                "xn--bcher-kva.example",
		"BÜCHER.example:443":            "xn--bcher-kva.example",
		"xn--bcher-kva.example":         "xn--bcher-kva.example",
		"XN--Bcher-kva.example":         "xn--bcher-kva.example",
		"ab--cd.example":                "ab--cd.example",
		"AB--cd.example":                "ab--cd.example",
		"日本語。example":                   "xn--wgv71a119e.example",
		"1.example":                     "1.example",
		strings.Repeat("a", 63):         strings.Repeat("a", 63),
		strings.Repeat("a.", 126):       strings.TrimSuffix(strings.Repeat("a.", 126), "."),
		strings.Repeat("a.", 126) + "b": strings.Repeat("a.", 126) + "b",
	} {
		got, err := NormalizeHost(host)
		if assert.NoError(t, err, "%q", host) {
			assert.Equal(t, want, got, "%q", host)
		}
	}
}

// S41
func TestMalformedHosts(t *testing.T) {
	t.Parallel()
	for _, host := range []string{
		"", ".", "..", "a..b", ".a", "a..", " ", "a b", "a.example ", "a\x00b", "a\nb", "a\tb", "a@b", "user@a.example", "a/b", "a\\b",
		"a_b.example", "-a.example", "a-.example", "a.-b", "*.example", "a,b", "a%41", "a?b", "a#b", "a\"b", "a'b", "(a)", "\xff", "a\xff.example",
		"a:b", "a:-1", "a:80:80", "a:65536", "a:123456", ":80", "[", "[]", "[::1", "[::1]x", "[::1]:x", "[::1%eth0]", "::1%eth0", "[127.0.0.1]", "1:2",
		"1.2.3.4.5", "1.2.3", "256.1.1.1", "example.123", "a.example:80\r\nX: y",
		"a．．b", "a\u202e.example", "a\u00ad\u200d", "⒈", "http://a.example",
		strings.Repeat("a", 64) + ".example", strings.Repeat("a.", 127) + "b", strings.Repeat("a", 100_000), strings.Repeat("ü", 60) + ".example",
	} {
		got, err := NormalizeHost(host)
		if assert.ErrorIs(t, err, ErrMalformedHost, "%q became %q", host, got) {
			assert.Less(t, len(err.Error()), 2000)
		}
	}
}

func TestStripWWW(t *testing.T) {
	t.Parallel()
	for host, want := range map[string]string{
		"www.a.example": "a.example", "a.example": "a.example", "www.example": "www.example", "www": "www", "www.www.a.example": "www.a.example",
	} {
		require.Equal(t, want, stripWWW(host))
	}
}

func TestNormalHostCostsNoAllocation(t *testing.T) {
	for _, host := range []string{"thor.polls.local", "thor.polls.local:8000", "thor.polls.local.", "127.0.0.1:80", "xn--bcher-kva.example"} {
		require.Zero(t, testing.AllocsPerRun(100, func() { _, _ = NormalizeHost(host) }), host)
	}
}

// S41: whatever comes in, what comes out is one spelling that stays as it is, or a refusal.
func FuzzNormalizeHost(f *testing.F) {
	for _, host := range []string{"thor.polls.local:8000", "[::1]:80", "bücher.example.", "xn--a", "a..b", "a．b", "\xff", "1.2.3.4", "ß.example"} {
		f.Add(host)
	}
	f.Fuzz(func(t *testing.T, host string) {
		got, err := NormalizeHost(host)
		if err != nil {
			require.ErrorIs(t, err, ErrMalformedHost)
			require.Empty(t, got)
			return
		}
		require.NotEmpty(t, got)
		require.LessOrEqual(t, len(got), maxHostLen)
		require.Equal(t, strings.ToLower(got), got)
		require.NotContains(t, got, "..")
		require.NotContains(t, got, "@")
		for i := range len(got) {
			require.True(t, got[i] > ' ' && got[i] < 0x7f, "%q", got)
		}
		again, err := NormalizeHost(got)
		require.NoError(t, err, "%q came from %q", got, host)
		require.Equal(t, got, again)
	})
}

// S12, S21
func FuzzValidateSlug(f *testing.F) {
	for _, slug := range []string{"thor", "Thor", "th-or", "-thor", "thor-", "th_or", "public", "pg_thor", "xn--a", "con", "1", "", "a\x00"} {
		f.Add(slug)
	}
	f.Fuzz(func(t *testing.T, slug string) {
		if err := ValidateSlug(slug); err != nil {
			require.ErrorIs(t, err, ErrInvalid)
			return
		}
		host, err := NormalizeHost(slug + ".example")
		require.NoError(t, err)
		require.Equal(t, slug+".example", host, "a slug is a label as it is")
	})
}
