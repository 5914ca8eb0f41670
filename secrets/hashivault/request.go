package hashivault

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/tablexport/tablexport/secrets"
)

// session is the current login. v.loginMu guards it.
type session struct {
	generation int  // counts logins; 0 = none yet
	own        bool // we made the token by logging in, and revoke it
	ended      bool // the token cannot be renewed any more: log in anew
	closed     bool
	stop       func() // ends its renewal; may be nil
}

// answer is what came of one request. Nothing of the body gets into a message: a proxy between us and Vault may echo
// what was sent.
type answer struct {
	status int // 0 = none
	body   []byte
	err    error // of the transport
}

// ok says that Vault did it.
func (a answer) ok() bool { return a.err == nil && a.status >= 200 && a.status < 300 }

// lost says that Vault may or may not have done it.
func (a answer) lost() bool {
	return a.err != nil || a.status >= 500 && !a.says("Vault is sealed") || a.status < 200
}

func (a answer) says(text string) bool { return bytes.Contains(a.body, []byte(text)) }

// conflict says that a check-and-set did not match. Only the text tells it from other answers with status 400.
func (a answer) conflict() bool {
	return a.status == http.StatusBadRequest && a.says("check-and-set parameter did not match the current version")
}

// send makes one request, once. A body is sent by PUT.
func (v *Vault) send(ctx context.Context, client *api.Client, method, path string, query url.Values, body []byte) answer {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	var resp *api.Response
	var err error
	switch method {
	case http.MethodGet:
		resp, err = client.Logical().ReadRawWithDataWithContext(ctx, path, query)
	case http.MethodPatch:
		req := client.NewRequest(method, "/v1/"+path)
		req.Headers.Set("Content-Type", "application/merge-patch+json")
		req.BodyBytes = body
		resp, err = client.RawRequestWithContext(ctx, req) //nolint:staticcheck // what is left of it for those who read the answer themselves
	default:
		resp, err = client.Logical().WriteRawWithContext(ctx, path, body)
	}
	if resp == nil || resp.Response == nil {
		if err == nil {
			err = errors.New("no answer")
		}
		return answer{err: err}
	}
	defer resp.Body.Close()
	content, readErr := io.ReadAll(resp.Body)
	if readErr != nil {
		return answer{err: readErr}
	}
	return answer{status: resp.StatusCode, body: content}
}

// login makes sure that there is a login newer than the one of generation old (0: any). renewed is false if there is no
// other to be had.
func (v *Vault) login(ctx context.Context, old int) (generation int, renewed bool, err error) {
	v.loginMu.Lock()
	defer v.loginMu.Unlock()
	if v.session.closed {
		return 0, false, fmt.Errorf("%w: it was closed", secrets.ErrUnavailable)
	}
	if v.session.generation > old && !v.session.ended {
		return v.session.generation, true, nil
	}
	g, err := v.authenticate(ctx)
	if err != nil {
		return 0, false, err
	}
	if g.token == v.client.Token() { // nobody has put a new one into the file
		return v.session.generation, false, nil
	}
	v.endRenewal()
	v.client.SetToken(g.token)
	v.session = session{generation: v.session.generation + 1, own: g.auth != nil}
	v.session.stop = v.keepAlive(g, v.session.generation)
	return v.session.generation, true, nil
}

// endRenewal stops renewing the token of the login before. v.loginMu is held.
func (v *Vault) endRenewal() {
	if v.session.stop != nil {
		v.session.stop()
	}
}

// readCredential reads a short secret from a file. No message holds any of it.
func readCredential(path, what string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("%w: the file with %s: %w", kind(err), what, err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, 16<<10))
	if err != nil {
		return "", fmt.Errorf("%w: the file with %s: %w", kind(err), what, err)
	}
	defer clear(data)
	text := strings.TrimSpace(string(data))
	if text == "" || strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		return "", fmt.Errorf("%w: %s must hold %s and nothing else", secrets.ErrSetup, path, what)
	}
	return text, nil
}

func kind(err error) error {
	if errors.Is(err, fs.ErrPermission) {
		return secrets.ErrPermission
	}
	return secrets.ErrSetup
}

// call makes a request under a login. If Vault forbids it, the login may have ended: it logs in anew and asks once more.
// A forbidden request was not carried out, so that asking again is safe for a write too.
func (v *Vault) call(ctx context.Context, method, path string, query url.Values, body []byte) (answer, error) {
	generation, _, err := v.login(ctx, 0)
	if err != nil {
		return answer{}, err
	}
	a := v.send(ctx, v.client, method, path, query, body)
	if a.status != http.StatusForbidden {
		return a, nil
	}
	_, renewed, err := v.login(ctx, generation)
	if err != nil {
		return answer{}, err
	}
	if !renewed {
		return a, nil
	}
	return v.send(ctx, v.client, method, path, query, body), nil
}

// readTries is how often a read is tried in all when Vault does not answer or says that it cannot now.
const readTries = 3

// get reads path. found is false for 404; the body is then whatever came with it.
func (v *Vault) get(ctx context.Context, path string, query url.Values) (a answer, found bool, err error) {
	capability := "read"
	if query.Has("list") {
		capability = "list"
	}
	for try := 1; ; try++ {
		a, err = v.call(ctx, http.MethodGet, path, query, nil)
		switch {
		case err != nil:
			return answer{}, false, err
		case a.ok():
			return a, true, nil
		case a.status == http.StatusNotFound && !a.says("no handler for route"):
			return a, false, nil
		}
		again := a.lost() || a.status == http.StatusTooManyRequests || a.status == http.StatusPreconditionFailed
		if !again || try == readTries || !pause(ctx, try) {
			return answer{}, false, v.fault(ctx, a, capability, path)
		}
	}
}

// pause waits a little, longer each time and never twice the same; false if ctx ended.
func pause(ctx context.Context, try int) bool {
	longest := min(time.Duration(try)*100*time.Millisecond, time.Second)
	select {
	case <-ctx.Done():
		return false
	case <-time.After(longest/4 + rand.N(longest*3/4)):
		return true
	}
}

// fault turns an answer that is not what was wanted into an error that says what to do. capability is what a policy would
// have to grant on path.
func (v *Vault) fault(ctx context.Context, a answer, capability, path string) error {
	where := v.opts.Address
	if a.err != nil {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("%w: the request to Vault was given up: %w", secrets.ErrUnavailable, err)
		}
		err := a.err
		if wrapped := (*url.Error)(nil); errors.As(err, &wrapped) {
			err = wrapped.Err
		}
		return fmt.Errorf("%w: Vault at %s cannot be reached: %w", secrets.ErrUnavailable, where, err)
	}
	unavailable := func(why string) error {
		return fmt.Errorf("%w: Vault at %s %s", secrets.ErrUnavailable, where, why)
	}
	switch {
	case a.status == http.StatusForbidden:
		return fmt.Errorf("%w: Vault forbids it; the policy of this login needs: path %q { capabilities = [%q] }",
			secrets.ErrPermission, path, capability)
	case a.status == http.StatusNotFound:
		return fmt.Errorf("%w: Vault at %s has nothing mounted for %s; enable the KV version 2 secrets engine (or the auth method) there, or correct the mount", secrets.ErrSetup, where, path)
	case a.status >= 300 && a.status < 400:
		return unavailable("answers with a redirect, which is not followed with a token; name the address of the active node or of a load balancer")
	case a.says("Vault is sealed"):
		return unavailable("is sealed; an operator must unseal it")
	case a.says("active cluster node not found"), a.status == 472, a.status == 473:
		return unavailable("is a standby without an active node")
	case a.says("Upgrading from non-versioned to versioned"):
		return unavailable("is still preparing the mount; try again in a moment")
	case a.status == http.StatusTooManyRequests:
		return unavailable("is limiting requests (429); try again later")
	case a.status >= 500, a.status == http.StatusPreconditionFailed:
		return unavailable(fmt.Sprintf("answers %d; Vault's own log says why", a.status))
	}
	return fmt.Errorf("%w: Vault at %s answers %d to %s on %s; is the mount a KV version 2 engine?", secrets.ErrSetup, where, a.status, capability, path)
}
