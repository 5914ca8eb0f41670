package odata

import (
	"fmt"
	"net"
	"net/url"
	"strings"
)

// parseBase reads a configured base address and checks the scheme and host rules: https, or http to a
// loopback address in a sandbox; no user information, query or fragment. The result ends in "/".
func parseBase(setting, text string, sandbox bool) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil || text == "" {
		return nil, &AddressError{Setting: setting, Reason: "is not an address; write it like https://acme.my.erp.net"}
	}
	if reason := refuseAddress(u, sandbox); reason != "" {
		return nil, &AddressError{Setting: setting, Reason: reason}
	}
	if u.RawQuery != "" || u.Fragment != "" || u.ForceQuery {
		return nil, &AddressError{Setting: setting, Reason: "must not have a query or a fragment; write it like https://acme.my.erp.net"}
	}
	return u.JoinPath("/"), nil
}

// refuseAddress says what is wrong with sending anything to u, "" if nothing is.
func refuseAddress(u *url.URL, sandbox bool) string {
	switch {
	case u.User != nil:
		return "must not carry a user name or password; credentials belong in the vault"
	case u.Hostname() == "" || u.Opaque != "":
		return "has no host; write it like https://acme.my.erp.net"
	case u.Scheme == "https":
		return ""
	case u.Scheme != "http":
		return fmt.Sprintf("must begin with https://, not %q", u.Scheme+"://")
	case !loopback(u.Hostname()):
		return fmt.Sprintf("must be https: a token is never sent in the clear to %s", u.Hostname())
	case !sandbox:
		return "must be https: plain http is only for loopback addresses in `environment: sandbox`"
	}
	return ""
}

func loopback(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

// localhost reports whether a host[:port] is this machine.
func localhost(host string) bool {
	return loopback((&url.URL{Host: host}).Hostname())
}

// hostOf is u's host[:port], lower case, without the scheme's default port.
func hostOf(u *url.URL) string {
	host, port := strings.ToLower(u.Hostname()), u.Port()
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	if port == "" || u.Scheme == "https" && port == "443" || u.Scheme == "http" && port == "80" {
		return host
	}
	return host + ":" + port
}

// sameOrigin reports whether two addresses have the same scheme, host and port.
func sameOrigin(a, b *url.URL) bool {
	return strings.EqualFold(a.Scheme, b.Scheme) && hostOf(a) == hostOf(b)
}

// followable resolves a next link that came in the answer to from. It refuses every link that leads
// elsewhere than below base: a credential goes with it.
func followable(link string, from, base *url.URL) (*url.URL, string) {
	ref, err := url.Parse(link)
	if err != nil {
		return nil, "its next link is not an address"
	}
	u := from.ResolveReference(ref)
	u.Fragment = ""
	switch {
	case u.User != nil || !sameOrigin(u, base):
		return nil, "its next link leads to another host, where the token must not go"
	case !strings.HasPrefix(u.Path, base.Path) || !strings.HasPrefix(u.EscapedPath(), base.EscapedPath()) || strings.Contains(u.Path, ".."):
		// Judged as it would be sent: tidied up first, "/tableapi//odata/" would pass, and what a
		// server or a proxy before it makes of that is not known.
		return nil, "its next link leads out of the Table API"
	}
	return u, ""
}

// loginAddress reports whether a redirect leads to a page where people log in.
func loginAddress(location string, from *url.URL) bool {
	u, err := url.Parse(location)
	if err != nil {
		return false
	}
	u = from.ResolveReference(u)
	if strings.HasPrefix(strings.ToLower(u.Hostname()), "id.") {
		return true
	}
	text := strings.ToLower(u.Hostname() + u.Path + "/")
	for _, sign := range []string{"login", "logon", "signin", "sign-in", "/id/", "identity", "/connect/", "/account", "auth", "saml", "sso"} {
		if strings.Contains(text, sign) {
			return true
		}
	}
	return false
}
