package hashivault

import (
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/hashicorp/vault/api"

	"github.com/tablexport/tablexport/secrets"
)

// JWT is a login with a signed token that the platform keeps fresh in a file: a workload identity of a CI system, a cloud or a
// cluster (https://developer.hashicorp.com/vault/docs/auth/jwt).
type JWT struct {
	File  string // the JWT; read at every login, since platforms replace it
	Role  string
	Mount string // ("jwt")
}

// Kubernetes is a login with the service account of a pod (https://developer.hashicorp.com/vault/docs/auth/kubernetes).
type Kubernetes struct {
	Role  string
	File  string // the service account's token ("/var/run/secrets/kubernetes.io/serviceaccount/token"); read at every login: projected tokens end
	Mount string // ("kubernetes")
}

// Certificate is a login with a TLS client certificate (https://developer.hashicorp.com/vault/docs/auth/cert).
type Certificate struct {
	CertFile string // PEM, the chain; read at every handshake
	KeyFile  string // PEM
	Role     string // name of the certificate role, "" = any that fits
	Mount    string // ("cert")
}

// serviceAccountToken is where Kubernetes puts the token of a pod's service account.
const serviceAccountToken = "/var/run/secrets/kubernetes.io/serviceaccount/token"

// LoginEvent is one login to Vault, for an audit log.
type LoginEvent struct {
	Method   string // "approle", "jwt", "kubernetes", "cert" or "token_file"
	Path     string // of the login; "" for a token file
	Accessor string // of the token that Vault gave, by which Vault's own audit log names it; "" if it failed, or for a token file
	Err      error
}

// method is the one way to log in that was chosen.
func (a Auth) method() string {
	switch {
	case a.AppRole != nil:
		return "approle"
	case a.JWT != nil:
		return "jwt"
	case a.Kubernetes != nil:
		return "kubernetes"
	case a.Certificate != nil:
		return "cert"
	}
	return "token_file"
}

// checkAuth checks a and fills in its mounts. The caller's structs stay as they are.
func checkAuth(a *Auth) error {
	chosen := 0
	for _, set := range []bool{a.TokenFile != "", a.AppRole != nil, a.JWT != nil, a.Kubernetes != nil, a.Certificate != nil} {
		if set {
			chosen++
		}
	}
	if chosen != 1 {
		return errors.New("name exactly one way to log in to Vault: token_file, approle, jwt, kubernetes or cert")
	}
	mount := func(label string, text *string, def string) error {
		*text = strings.Trim(cmp.Or(*text, def), "/")
		if !pathRule.MatchString(*text) {
			return fmt.Errorf("%s mount %q: write a path such as %s", label, *text, def)
		}
		return nil
	}
	switch {
	case a.AppRole != nil:
		role := *a.AppRole // the caller's stays as it is
		a.AppRole = &role
		if role.RoleIDFile == "" || role.SecretIDFile == "" {
			return errors.New("an AppRole login needs role_id_file and secret_id_file")
		}
		return mount("AppRole", &role.Mount, "approle")
	case a.JWT != nil:
		login := *a.JWT
		a.JWT = &login
		if login.File == "" || login.Role == "" {
			return errors.New("a JWT login needs file and role")
		}
		return mount("JWT", &login.Mount, "jwt")
	case a.Kubernetes != nil:
		login := *a.Kubernetes
		a.Kubernetes = &login
		login.File = cmp.Or(login.File, serviceAccountToken)
		if login.Role == "" {
			return errors.New("a Kubernetes login needs role")
		}
		return mount("Kubernetes", &login.Mount, "kubernetes")
	case a.Certificate != nil:
		login := *a.Certificate
		a.Certificate = &login
		if login.CertFile == "" || login.KeyFile == "" {
			return errors.New("a certificate login needs cert_file and key_file")
		}
		return mount("certificate", &login.Mount, "cert")
	}
	return nil
}

// clientCertificate reads the certificate at every handshake, so that one that was replaced is used without a restart.
func (c *Certificate) clientCertificate(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	pair, err := tls.LoadX509KeyPair(c.CertFile, c.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("%w: the client certificate for Vault: %w", secrets.ErrSetup, err)
	}
	return &pair, nil
}

// granted is what Vault gives for a login.
type granted struct {
	token string
	auth  *api.SecretAuth // nil for a token file, which is not ours to renew
}

// authenticate logs in, by whichever way was chosen.
func (v *Vault) authenticate(ctx context.Context) (g granted, err error) {
	a := v.opts.Auth
	event := LoginEvent{Method: a.method()}
	body := map[string]string{}
	switch {
	case a.AppRole != nil:
		event.Path = "auth/" + a.AppRole.Mount + "/login"
		body, err = v.appRole(ctx, *a.AppRole)
	case a.JWT != nil:
		event.Path = "auth/" + a.JWT.Mount + "/login"
		body["role"] = a.JWT.Role
		body["jwt"], err = readCredential(a.JWT.File, "the JWT")
	case a.Kubernetes != nil:
		event.Path = "auth/" + a.Kubernetes.Mount + "/login"
		body["role"] = a.Kubernetes.Role
		body["jwt"], err = readCredential(a.Kubernetes.File, "the service account's token")
	case a.Certificate != nil:
		event.Path = "auth/" + a.Certificate.Mount + "/login"
		if a.Certificate.Role != "" {
			body["name"] = a.Certificate.Role
		}
	default:
		g.token, err = readCredential(a.TokenFile, "the Vault token")
	}
	if err == nil && event.Path != "" {
		g, err = v.logIn(ctx, event.Path, body)
	}
	if event.Err = err; g.auth != nil {
		event.Accessor = g.auth.Accessor
	}
	if v.opts.OnLogin != nil && (err != nil || g.token != v.client.Token()) {
		err = errors.Join(err, v.opts.OnLogin(ctx, event)) // nothing is done under a login that could not be recorded
	}
	return g, err
}

// logIn sends one login.
func (v *Vault) logIn(ctx context.Context, path string, credentials map[string]string) (granted, error) {
	body, err := json.Marshal(credentials)
	if err != nil {
		return granted{}, fmt.Errorf("hashivault: encode the login: %w", err)
	}
	a := v.send(ctx, v.anonymous, http.MethodPut, path, nil, body)
	clear(body)
	if a.status == http.StatusBadRequest || a.status == http.StatusForbidden || a.status == http.StatusUnauthorized {
		return granted{}, fmt.Errorf("%w: Vault at %s does not accept the login at %s; check %s", secrets.ErrPermission, v.opts.Address, path, v.opts.Auth.advice())
	}
	if !a.ok() {
		return granted{}, v.fault(ctx, a, "update", path)
	}
	defer clear(a.body)
	var reply struct {
		Auth *api.SecretAuth `json:"auth"`
	}
	if json.Unmarshal(a.body, &reply) != nil || reply.Auth == nil || reply.Auth.ClientToken == "" {
		return granted{}, fmt.Errorf("%w: the answer of Vault at %s to the login holds no token", secrets.ErrUnavailable, v.opts.Address)
	}
	return granted{token: reply.Auth.ClientToken, auth: reply.Auth}, nil
}

// advice says what may be wrong with a login that Vault does not accept.
func (a Auth) advice() string {
	switch {
	case a.AppRole != nil:
		return fmt.Sprintf("the role id in %s and the secret id in %s (it may have expired or been used up)", a.AppRole.RoleIDFile, a.AppRole.SecretIDFile)
	case a.JWT != nil:
		return fmt.Sprintf("the JWT in %s (it may have expired) and what role %s is bound to", a.JWT.File, a.JWT.Role)
	case a.Kubernetes != nil:
		return fmt.Sprintf("the service account's token in %s, and which service accounts role %s is bound to", a.Kubernetes.File, a.Kubernetes.Role)
	case a.Certificate != nil:
		return fmt.Sprintf("the certificate in %s (it may have expired) and which authority the role trusts", a.Certificate.CertFile)
	}
	return "the token"
}

// appRole reads the two ids. A wrapped secret id is unwrapped once and kept for later logins: its token works one time only.
func (v *Vault) appRole(ctx context.Context, role AppRole) (map[string]string, error) {
	roleID, err := readCredential(role.RoleIDFile, "the role id")
	if err != nil {
		return nil, err
	}
	secretID, err := readCredential(role.SecretIDFile, "the secret id")
	if err != nil {
		return nil, err
	}
	if role.Wrapped {
		if secretID, err = v.unwrap(ctx, role, secretID); err != nil {
			return nil, err
		}
	}
	return map[string]string{"role_id": roleID, "secret_id": secretID}, nil
}

// unwrapped is a secret id that came out of a response-wrapping token. v.loginMu guards it.
type unwrapped struct {
	wrapping, secretID string
}

// unwrap takes the secret id out of a response-wrapping token (https://developer.hashicorp.com/vault/docs/concepts/response-wrapping). It looks
// first where the token was made: one of another origin was put there by somebody else. One that has been used already is an alarm.
func (v *Vault) unwrap(ctx context.Context, role AppRole, wrapping string) (string, error) {
	if v.unwrapped.wrapping == wrapping {
		return v.unwrapped.secretID, nil
	}
	body, err := json.Marshal(map[string]string{"token": wrapping})
	if err != nil {
		return "", fmt.Errorf("hashivault: encode: %w", err)
	}
	defer clear(body)
	const spent = "%w: the response-wrapping token in %s is not good any more: it has expired, or somebody has used it; if that was not you, take the secret id for stolen, " +
		"destroy it (vault write auth/%s/role/ROLE/secret-id-accessor/destroy …) and issue another one"
	a := v.send(ctx, v.anonymous, http.MethodPut, "sys/wrapping/lookup", nil, body)
	switch {
	case a.status == http.StatusBadRequest || a.status == http.StatusForbidden:
		return "", fmt.Errorf(spent, secrets.ErrPermission, role.SecretIDFile, role.Mount)
	case !a.ok():
		return "", v.fault(ctx, a, "update", "sys/wrapping/lookup")
	}
	var found struct {
		Data struct {
			CreationPath string `json:"creation_path"`
		} `json:"data"`
	}
	made := "auth/" + role.Mount + "/role/"
	if json.Unmarshal(a.body, &found) != nil || !strings.HasPrefix(found.Data.CreationPath, made) || !strings.HasSuffix(found.Data.CreationPath, "/secret-id") {
		return "", fmt.Errorf("%w: the response-wrapping token in %s was not made at %s…/secret-id: somebody may have replaced it", secrets.ErrPermission, role.SecretIDFile, made)
	}
	bearer, err := newClient(v.opts, v.transport) // the wrapping token is its own credential
	if err != nil {
		return "", fmt.Errorf("%w: %w", secrets.ErrSetup, err)
	}
	bearer.SetToken(wrapping)
	a = v.send(ctx, bearer, http.MethodPut, "sys/wrapping/unwrap", nil, nil)
	if !a.ok() {
		if a.lost() {
			return "", v.fault(ctx, a, "update", "sys/wrapping/unwrap")
		}
		return "", fmt.Errorf(spent, secrets.ErrPermission, role.SecretIDFile, role.Mount)
	}
	defer clear(a.body)
	var reply struct {
		Data struct {
			SecretID string `json:"secret_id"`
		} `json:"data"`
	}
	if json.Unmarshal(a.body, &reply) != nil || reply.Data.SecretID == "" {
		return "", fmt.Errorf("%w: the response-wrapping token in %s holds no secret id", secrets.ErrSetup, role.SecretIDFile)
	}
	v.unwrapped = unwrapped{wrapping, reply.Data.SecretID}
	return reply.Data.SecretID, nil
}

// keepAlive renews the token of a login until it cannot be renewed any more, or the driver is closed. Then the next operation logs in anew;
// a request that meets the end before that gets a 403, and logs in then.
func (v *Vault) keepAlive(g granted, generation int) (stop func()) {
	if g.auth == nil || !g.auth.Renewable {
		return func() {}
	}
	watcher, err := v.client.NewLifetimeWatcher(&api.LifetimeWatcherInput{
		Secret: &api.Secret{Auth: g.auth}, Increment: g.auth.LeaseDuration, RenewBehavior: api.RenewBehaviorIgnoreErrors,
	})
	if err != nil {
		return func() {} // it lives as long as it lives
	}
	go watcher.Start()
	go func() {
		for {
			select {
			case <-watcher.DoneCh(): //nolint:errcheck // nil or not: there is nothing more to be had of this token
				v.loginMu.Lock()
				defer v.loginMu.Unlock()
				if v.session.generation == generation {
					v.session.ended = true
				}
				return
			case <-watcher.RenewCh():
			}
		}
	}()
	return watcher.Stop
}
