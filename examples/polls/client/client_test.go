package client_test

import (
	"crypto/tls"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/tenement-go/tenement/examples/polls/client"
)

func TestNetwork(t *testing.T) {
	t.Parallel()
	var none, some client.Proxies
	require.NoError(t, some.Set("10.0.0.0/8, ::1"))
	for name, c := range map[string]struct {
		proxies   client.Proxies
		remote    string
		forwarded []string
		want      string
	}{
		"IPv4":                           {none, "203.0.113.9:4711", nil, "203.0.113.9"},
		"IPv6":                           {none, "[2001:db8:1:2:3:4:5:6]:4711", nil, "2001:db8:1:2::/64"},
		"the same network":               {none, "[2001:db8:1:2:ffff::1]:80", nil, "2001:db8:1:2::/64"},
		"the next network":               {none, "[2001:db8:1:3::1]:80", nil, "2001:db8:1:3::/64"},
		"IPv4 in IPv6":                   {none, "[::ffff:203.0.113.9]:80", nil, "203.0.113.9"},
		"a zone":                         {none, "[fe80::1%eth0]:80", nil, "fe80::/64"},
		"a Unix socket":                  {none, "@", nil, "local"},
		"a header, and no proxies":       {none, "203.0.113.9:80", []string{"198.51.100.1"}, "203.0.113.9"},
		"a header from somebody":         {some, "203.0.113.9:80", []string{"198.51.100.1"}, "203.0.113.9"},
		"one proxy":                      {some, "10.1.2.3:80", []string{"198.51.100.1"}, "198.51.100.1"},
		"a proxy on this machine":        {some, "[::1]:80", []string{"2001:db8:1:2::9"}, "2001:db8:1:2::/64"},
		"two proxies":                    {some, "10.1.2.3:80", []string{"198.51.100.1, 10.9.9.9"}, "198.51.100.1"},
		"two headers":                    {some, "10.1.2.3:80", []string{"198.51.100.1", "10.9.9.9"}, "198.51.100.1"},
		"what the client wrote":          {some, "10.1.2.3:80", []string{"192.0.2.1, 198.51.100.1"}, "198.51.100.1"},
		"a proxy that the client made":   {some, "10.1.2.3:80", []string{"10.6.6.6, 198.51.100.1"}, "198.51.100.1"},
		"nothing but proxies":            {some, "10.1.2.3:80", []string{"10.6.6.6"}, "10.6.6.6"},
		"no header":                      {some, "10.1.2.3:80", nil, "10.1.2.3"},
		"nonsense":                       {some, "10.1.2.3:80", []string{"198.51.100.1, unknown"}, "10.1.2.3"},
		"with a port":                    {some, "10.1.2.3:80", []string{"198.51.100.1:4711"}, "198.51.100.1"},
		"IPv6 in brackets, with a port":  {some, "10.1.2.3:80", []string{"[2001:db8:1:2::9]:4711"}, "2001:db8:1:2::/64"},
		"IPv6 in brackets, without port": {some, "10.1.2.3:80", []string{"[2001:db8:1:2::9]"}, "2001:db8:1:2::/64"},
	} {
		r := httptest.NewRequest("GET", "/", nil)
		r.RemoteAddr = c.remote
		for _, value := range c.forwarded {
			r.Header.Add("X-Forwarded-For", value)
		}
		assert.Equal(t, c.want, c.proxies.Network(r), name)
	}
}

func TestSecure(t *testing.T) {
	t.Parallel()
	some := client.Proxies{}
	require.NoError(t, some.Set("10.0.0.0/8"))
	r := httptest.NewRequest("GET", "/", nil)
	r.RemoteAddr = "10.1.2.3:80"
	assert.False(t, some.Secure(r))
	r.Header.Set("X-Forwarded-Proto", "HTTPS")
	assert.True(t, some.Secure(r))
	assert.False(t, client.Proxies(nil).Secure(r), "nobody is believed")
	r.RemoteAddr = "203.0.113.9:80"
	assert.False(t, some.Secure(r), "this one is not believed")
	r.TLS = &tls.ConnectionState{}
	assert.True(t, some.Secure(r))
}

func TestSet(t *testing.T) {
	t.Parallel()
	var p client.Proxies
	require.NoError(t, p.Set("10.1.2.3/8"))
	require.NoError(t, p.Set("2001:db8::7"))
	assert.Equal(t, "10.0.0.0/8,2001:db8::7/128", p.String())
	for _, text := range []string{"", "localhost", "10.0.0.0/8,", "10.0.0.0/33"} {
		require.Error(t, p.Set(text), text)
	}
}
