package s3store

import (
	"net/url"
	"testing"
)

// The sum of the parts reaches what the documentation says, never with a part that is smaller than the one before or than the first.
func TestPartSize(t *testing.T) {
	for _, first := range []int64{minPartSize, DefaultPartSize, 64 << 20, maxPartSize} {
		total, last := int64(0), first
		for n := 1; n <= maxParts; n++ {
			size := partSize(first, n)
			if size < last || size > maxPartSize {
				t.Fatalf("part %d of %d bytes after one of %d", n, size, last)
			}
			if n <= partsPerSize && size != first {
				t.Fatalf("part %d has %d bytes, want %d", n, size, first)
			}
			total += size
			last = size
		}
		if first == DefaultPartSize && total < 389<<40/100 {
			t.Errorf("%d parts hold %d bytes, want 3.9 TiB", maxParts, total)
		}
	}
}

func TestCredentialHost(t *testing.T) {
	for host, want := range map[string]bool{
		"169.254.169.254": true, "169.254.170.2": true, "169.254.170.23:80": true, "[fd00:ec2::254]": true, "[fd00:ec2::23]": true,
		"10.0.0.1": false, "example.com": false, "169.254.169.254.example.com": false, "[fd00:ec2::1]": false,
	} {
		u, err := url.Parse("http://" + host + "/latest")
		if err != nil {
			t.Fatal(err)
		}
		if credentialHost(u) != want {
			t.Errorf("credentialHost(%s) = %v", host, !want)
		}
	}
}
