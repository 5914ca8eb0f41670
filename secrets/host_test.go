package secrets

import (
	"testing"

	"pgregory.net/rapid"
)

func TestCanonicalHost(t *testing.T) {
	for in, want := range map[string]string{
		"acme.my.erp.net": "acme.my.erp.net", "ACME.My.erp.net.": "acme.my.erp.net", "acme:443": "acme", "acme:0443": "acme",
		"acme:8443": "acme:8443", "acme:80": "acme:80", "127.0.0.1:8080": "127.0.0.1:8080", "[::1]:443": "[::1]", "[0:0::1]": "[::1]",
		"::1": "[::1]", "[2001:DB8::1]:8443": "[2001:db8::1]:8443", "acme:": "acme", "xn--bcher-kva.example": "xn--bcher-kva.example",
	} {
		if got, err := CanonicalHost(in); err != nil || got != want {
			t.Errorf("%q: %q %v, want %q", in, got, err, want)
		}
	}
	for _, in := range []string{"", ".", ":443", "a b", "a/b", "a:b", "a:0", "a:70000", "bücher.example", "user@acme", "user:pw@acme", "acme?x", "acme#x", "acme\x00", "[::1", "acme\\x", "https://acme", "a:1:2"} {
		if got, err := CanonicalHost(in); err == nil {
			t.Errorf("%q became %q", in, got)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		in := rapid.String().Draw(t, "host")
		once, err := CanonicalHost(in)
		if err != nil {
			return
		}
		if twice, err := CanonicalHost(once); err != nil || twice != once {
			t.Fatalf("%q: %q, then %q %v", in, once, twice, err)
		}
	})
}

func TestLoopback(t *testing.T) {
	for host, want := range map[string]bool{
		"localhost": true, "LOCALHOST.:80": true, "127.0.0.1:1": true, "127.9.9.9": true, "[::1]:8": true, "[::ffff:127.0.0.1]:1": true,
		"localhost.example": false, "10.0.0.1": false, "0.0.0.0": false, "[::]:1": false, "127.0.0.1.example": false, "": false, "2130706433": false,
	} {
		if Loopback(host) != want {
			t.Errorf("Loopback(%q) = %v", host, !want)
		}
	}
}

func TestSameHost(t *testing.T) {
	for _, c := range []struct {
		a, b, scheme string
		want         bool
	}{
		{"acme", "ACME.:443", "https", true}, {"acme", "acme:80", "https", false}, {"acme", "acme:80", "http", true},
		{"acme:443", "acme", "http", false}, {"acme", "acme2", "https", false}, {"acme", "sub.acme", "https", false}, {"", "", "https", false},
	} {
		if got := sameHost(c.a, c.b, c.scheme); got != c.want {
			t.Errorf("%+v: %v", c, got)
		}
	}
}
