package secrets

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// CanonicalHost brings host[:port] to the form in which hosts are compared: lower case, no trailing dot, IP addresses
// in their shortest form, no port 443. It refuses what is no host: empty, with a user, a path, white space or
// characters outside of ASCII (write international names in punycode).
func CanonicalHost(host string) (string, error) {
	name, port, err := splitHost(host)
	if err != nil {
		return "", err
	}
	return joinHost(name, port, "443"), nil
}

// sameHost compares two hosts as a request with that scheme would reach them.
func sameHost(a, b, scheme string) bool {
	def := "443"
	if scheme == "http" {
		def = "80"
	}
	nameA, portA, errA := splitHost(a)
	nameB, portB, errB := splitHost(b)
	return errA == nil && errB == nil && joinHost(nameA, portA, def) == joinHost(nameB, portB, def)
}

func splitHost(host string) (name, port string, err error) {
	bad := func(why string) (string, string, error) {
		if strings.Contains(host, "@") {
			return "", "", fmt.Errorf("secrets: a host must not hold a user or a password")
		}
		return "", "", fmt.Errorf("secrets: host %q: %s", host, why)
	}
	name = host
	if strings.HasPrefix(host, "[") || strings.Count(host, ":") == 1 {
		if strings.HasSuffix(host, "]") {
			name = host[1 : len(host)-1]
		} else if name, port, err = net.SplitHostPort(host); err != nil {
			return bad("write host or host:port")
		}
	}
	if port != "" {
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 {
			return bad("the port is not a number from 1 to 65535")
		}
		port = strconv.FormatUint(n, 10)
	}
	if ip, err := netip.ParseAddr(name); err == nil {
		return ip.String(), port, nil
	}
	name = strings.TrimSuffix(strings.ToLower(name), ".")
	if name == "" {
		return bad("the name is empty")
	}
	for _, c := range []byte(name) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '.' && c != '_' {
			return bad("write a host name or an IP address, with nothing around it")
		}
	}
	return name, port, nil
}

func joinHost(name, port, def string) string {
	if strings.Contains(name, ":") {
		name = "[" + name + "]"
	}
	if port == "" || port == def {
		return name
	}
	return name + ":" + port
}

// Loopback says whether host[:port] is this machine: "localhost", 127.0.0.0/8 or ::1.
func Loopback(host string) bool {
	name, _, err := splitHost(host)
	if err != nil {
		return false
	}
	ip, err := netip.ParseAddr(name)
	return name == "localhost" || err == nil && ip.Unmap().IsLoopback()
}
