package jobs_test

import (
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/tablexport/tablexport/jobs"
	"github.com/tablexport/tablexport/odata/simulator"
	"github.com/tablexport/tablexport/secrets"
)

const clientSecret = "CANARY-client-secret-0123456789"

// clientRig is a rig whose instance takes client credentials. revoke gets the access token of the third request for data.
func clientRig(t *testing.T, revoke func(r *rig, n int64, token string)) *rig {
	t.Helper()
	var r *rig
	var n atomic.Int64
	r = newRig(t, simulator.Options{Apps: []simulator.App{{URI: "my.app/bi", Secret: clientSecret}}}, behind(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			if strings.HasSuffix(q.URL.Path, lines) {
				revoke(r, n.Add(1), strings.TrimPrefix(q.Header.Get("Authorization"), "Bearer "))
			}
			next.ServeHTTP(w, q)
		})
	}))
	r.activate(clientSecret)
	instance := r.runner.Instances["acme"]
	instance.Use = secrets.Kind{Client: &secrets.ClientCredentials{Issuer: r.url + "/id", ClientID: "my.app/bi"}}
	r.runner.Instances["acme"] = instance
	return r
}

// An access token that is refused in the middle of a scan is exchanged anew, the page is repeated once, and the copy is exact.
func TestAccessTokenEndsInMidScan(t *testing.T) {
	t.Parallel()
	r := clientRig(t, func(r *rig, n int64, token string) {
		if n == 3 {
			r.server.Revoke(token)
		}
	})
	r.exact(job(lines))
	if got := r.server.Stats().Unauthorized; got != 1 {
		t.Errorf("%d requests were refused", got)
	}
	r.discreet(lines, r.logged.String())
}

// A server that takes no token at all is asked once more, not for ever.
func TestAccessTokenIsRefusedForGood(t *testing.T) {
	t.Parallel()
	r := clientRig(t, func(r *rig, n int64, token string) {
		if n >= 3 {
			r.server.Revoke(token)
		}
	})
	_, err := r.run(job(lines))
	if jobs.Classify(err) != jobs.Credential {
		t.Errorf("%v is %s", err, jobs.Classify(err))
	}
	if got := r.server.Stats().Unauthorized; got > 3 {
		t.Errorf("%d requests were refused", got)
	}
	if strings.Contains(err.Error(), clientSecret) {
		t.Error("the error holds the client secret")
	}
}
