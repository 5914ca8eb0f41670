package secrets_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tablexport/tablexport/secrets"
	"github.com/tablexport/tablexport/secrets/audit"
	"github.com/tablexport/tablexport/secrets/filevault"
	"github.com/tablexport/tablexport/secrets/hashivault"
	"github.com/tablexport/tablexport/secrets/memvault"
	"github.com/tablexport/tablexport/secrets/secretstest"
	"github.com/tablexport/tablexport/secrets/secretstest/vaultserver"
)

// drivers make empty vaults; every call of open is as another process would open it.
func drivers() map[string]func(t testing.TB) (open func() secrets.Vault) {
	return map[string]func(t testing.TB) (open func() secrets.Vault){
		"memory": func(testing.TB) func() secrets.Vault {
			v := memvault.New()
			return func() secrets.Vault { return v }
		},
		"file": func(t testing.TB) func() secrets.Vault {
			path := filepath.Join(t.TempDir(), "secrets.age")
			return func() secrets.Vault {
				v, err := filevault.Open(filevault.Options{File: path})
				if err != nil {
					t.Fatal(err)
				}
				return v
			}
		},
		"vault": func(t testing.TB) func() secrets.Vault {
			server := vaultserver.Start(t)
			return openHashi(t, server.Address, server.NewMount(t), server.RootToken)
		},
	}
}

func openHashi(t testing.TB, address, mount, token string) func() secrets.Vault {
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(token), 0o600); err != nil {
		t.Fatal(err)
	}
	return func() secrets.Vault {
		v, err := hashivault.Open(hashivault.Options{Address: address, Mount: mount, Auth: hashivault.Auth{TokenFile: file}})
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// rotator rotates one token in one vault.
type rotator struct {
	open     func() secrets.Vault
	log      *audit.Log
	one, two secretstest.Canary
}

func newRotator(t testing.TB, open func() secrets.Vault) *rotator {
	t.Helper()
	r := &rotator{open: open, one: secretstest.NewCanary(t), two: secretstest.NewCanary(t)}
	var err error
	if r.log, err = audit.Open(filepath.Join(t.TempDir(), "audit")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.log.Close() })
	if _, err := r.rotate(t.Context(), open(), r.one.Token); err != nil {
		t.Fatal(err)
	}
	return r
}

func good(context.Context, int, int) (map[string]string, error) {
	return map[string]string{"proof": "yes"}, nil
}
func refused(context.Context, secrets.Version) (map[string]string, error) {
	return map[string]string{"status": "401"}, nil
}

func (r *rotator) rotate(ctx context.Context, v secrets.Vault, token secrets.Token) (secrets.Rotated, error) {
	k := secrets.NewKeeper(v, r.log, secrets.Production, "alice")
	return k.Rotate(ctx, secrets.Rotation{Name: request.Name, Binding: binding(secrets.Production), Token: token, Verify: good, Retire: refused})
}

// ended demands that the walk has come to its end: two versions, the old one retired, the new one active and lent.
func (r *rotator) ended(t testing.TB) {
	t.Helper()
	v := r.open()
	n, err := v.Versions(t.Context(), request.Name)
	if err != nil {
		t.Fatal(err)
	}
	if n.Active != 2 || len(n.Versions) != 2 || n.Versions[0].State != secrets.Active || n.Versions[1].State != secrets.Retired || n.Versions[0].Verified.IsZero() {
		t.Errorf("ended as %+v", n)
	}
	if token, _, err := v.Read(t.Context(), request.Name, 0); err != nil || !token.Equal(r.two.Token) {
		t.Errorf("another token is active: %v", err)
	}
}

func TestRotate(t *testing.T) {
	for name, fresh := range drivers() {
		t.Run(name, func(t *testing.T) {
			r := newRotator(t, fresh(t))
			done, err := r.rotate(t.Context(), r.open(), r.two.Token)
			if err != nil || done.Active != 2 || done.Previous != 1 || fmt.Sprint(done.Retired) != "[1]" || len(done.Retiring) != 0 {
				t.Errorf("%+v, %v", done, err)
			}
			r.ended(t)
			// Again, with the same token, and with none: nothing is left to do.
			for _, token := range []secrets.Token{r.two.Token, {}} {
				if done, err := r.rotate(t.Context(), r.open(), token); err != nil || done.Active != 2 || done.Previous != 0 {
					t.Errorf("again: %+v, %v", done, err)
				}
			}
			r.ended(t)
			if _, err := r.rotate(t.Context(), r.open(), r.one.Token); !errors.Is(err, secrets.ErrState) {
				t.Errorf("back to a retired token: %v", err)
			}
		})
	}
}

// The vault fails at every call of a rotation in turn, before it did it and after; the rotation that is begun again ends well.
func TestRotateThroughFaults(t *testing.T) {
	for name, fresh := range drivers() {
		for _, after := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/after=%v", name, after), func(t *testing.T) {
				open := fresh(t)
				key := openOnce(t, open)
				for at := 1; ; at++ {
					name := fmt.Sprintf("bi/acme-%d", at)
					if !rotateWithFault(t, open, key, name, at, after) {
						if at < 8 {
							t.Errorf("a rotation made %d calls: is the fault injected?", at)
						}
						return
					}
				}
			})
		}
	}
}

// openOnce lets the vault make its key, so that every rotation makes the same calls.
func openOnce(t testing.TB, open func() secrets.Vault) []byte {
	t.Helper()
	key, err := open().FingerprintKey(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// rotateWithFault rotates with a fault at one call, and once more without; false if there were fewer calls.
func rotateWithFault(t *testing.T, open func() secrets.Vault, _ []byte, name string, at int, after bool) bool {
	t.Helper()
	dir := t.TempDir()
	log, err := audit.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	one, two := secretstest.NewCanary(t), secretstest.NewCanary(t)
	rotate := func(v secrets.Vault, c secretstest.Canary) error {
		_, err := secrets.NewKeeper(v, log, secrets.Production, "alice").Rotate(t.Context(), secrets.Rotation{
			Name: name, Binding: binding(secrets.Production), Token: c.Token, Verify: good, Retire: refused})
		one.AbsentFromError(t, name, err)
		two.AbsentFromError(t, name, err)
		return err
	}
	if err := rotate(open(), one); err != nil {
		t.Fatal(err)
	}
	calls, op := 0, ""
	fault := func(o string) error {
		if calls++; calls == at {
			op = o
			return fmt.Errorf("%w: injected", secrets.ErrUnavailable)
		}
		return nil
	}
	broken := &secretstest.Faulty{Vault: open()}
	if after {
		broken.After = fault
	} else {
		broken.Before = fault
	}
	err = rotate(broken, two)
	if calls < at {
		return false
	}
	n, verr := open().Versions(t.Context(), name)
	if verr != nil || n.Active == 0 {
		t.Fatalf("call %d (%s): after the fault %+v, %v", at, op, n, verr)
	}
	if err != nil {
		if err := rotate(open(), two); err != nil {
			t.Fatalf("call %d (%s): begun again: %v", at, op, err)
		}
	}
	if err := rotate(open(), two); err != nil { // what a failed retirement left
		t.Fatalf("call %d (%s): once more: %v", at, op, err)
	}
	n, err = open().Versions(t.Context(), name)
	if err != nil || len(n.Versions) != 2 || n.Active != 2 || n.Versions[1].State != secrets.Retired {
		t.Errorf("call %d (%s): ended as %+v, %v", at, op, n, err)
	}
	if report, err := audit.Verify(dir); err != nil || len(report.Problems) > 0 {
		t.Errorf("audit: %v %v", report.Problems, err)
	}
	two.AbsentFromDir(t, dir)
	return true
}

// Operators who rotate the same token at once: all that end without a conflict agree, and the token ends rotated.
func TestRotateAtOnce(t *testing.T) {
	for name, fresh := range drivers() {
		t.Run(name, func(t *testing.T) {
			r := newRotator(t, fresh(t))
			var wg sync.WaitGroup
			for range 3 {
				v := r.open()
				wg.Go(func() {
					if _, err := r.rotate(t.Context(), v, r.two.Token); err != nil && !errors.Is(err, secrets.ErrConflict) && !errors.Is(err, secrets.ErrState) {
						t.Error(err)
					}
				})
			}
			wg.Wait()
			for range 2 {
				if _, err := r.rotate(t.Context(), r.open(), r.two.Token); err != nil {
					t.Fatal(err)
				}
			}
			n, err := r.open().Versions(t.Context(), request.Name)
			if err != nil {
				t.Fatal(err)
			}
			if token, _, err := r.open().Read(t.Context(), request.Name, 0); err != nil || !token.Equal(r.two.Token) {
				t.Errorf("another token is active: %v %+v", err, n)
			}
			if n.Versions[len(n.Versions)-1].State != secrets.Retired {
				t.Errorf("the old one: %+v", n)
			}
		})
	}
}

// What fails in the steps themselves leaves the states as they are.
func TestRotationStepsThatFail(t *testing.T) {
	r := newRotator(t, drivers()["memory"](t))
	k := secrets.NewKeeper(r.open(), r.log, secrets.Production, "alice")
	over := errors.New("it is over-privileged")
	var steps []string
	rotation := secrets.Rotation{Name: request.Name, Binding: binding(secrets.Production), Token: r.two.Token,
		Verify: func(context.Context, int, int) (map[string]string, error) { return nil, over },
		Retire: func(context.Context, secrets.Version) (map[string]string, error) {
			return nil, fmt.Errorf("%w by run 7", secrets.ErrInUse)
		},
		Done: func(step secrets.State, version int, err error) {
			steps = append(steps, fmt.Sprint(step, version, err == nil))
		}}
	if _, err := k.Rotate(t.Context(), rotation); !errors.Is(err, over) {
		t.Errorf("verify failed: %v", err)
	}
	rotation.Verify = good
	done, err := k.Rotate(t.Context(), rotation)
	if err != nil || fmt.Sprint(done.Retiring) != "[1]" || len(done.Retired) != 0 {
		t.Errorf("in use: %+v, %v", done, err)
	}
	if got := strings.Join(steps, " "); got != "staged2 true staged2 true verified2 true active2 true retired1 false" {
		t.Errorf("steps: %s", got)
	}
	if err := k.Reject(t.Context(), request.Name, 2, nil); !errors.Is(err, secrets.ErrState) {
		t.Errorf("rejecting the active one: %v", err)
	}
	if err := k.Retired(t.Context(), request.Name, 2, nil); !errors.Is(err, secrets.ErrState) {
		t.Errorf("retiring the active one: %v", err)
	}
	three := secretstest.NewCanary(t)
	v, err := k.Stage(t.Context(), request.Name, three.Token, binding(secrets.Production))
	if err != nil {
		t.Fatal(err)
	}
	if err := k.Activate(t.Context(), request.Name, v.Number, 2); !errors.Is(err, secrets.ErrState) || !strings.Contains(err.Error(), "tokens verify") {
		t.Errorf("activating what is not proven: %v", err)
	}
	if err := k.Reject(t.Context(), request.Name, v.Number, map[string]string{"reason": "leaked"}); err != nil {
		t.Fatal(err)
	}
	if _, err := k.LeaseVersion(t.Context(), request, v.Number); !errors.Is(err, secrets.ErrState) {
		t.Errorf("a rejected version was lent: %v", err)
	}
	if _, err := k.Stage(t.Context(), request.Name, three.Token, binding(secrets.Production)); !errors.Is(err, secrets.ErrState) {
		t.Errorf("a rejected token staged again: %v", err)
	}
}

func TestUses(t *testing.T) {
	k, f := keeper(t, secrets.Production)
	_, v := activate(t, k, 0)
	since := time.Now().Add(-time.Hour)
	uses := func() secrets.Use {
		t.Helper()
		all, err := secrets.Uses(f.dir, since)
		if err != nil {
			t.Fatal(err)
		}
		return all[v.Fingerprint]
	}
	trial, err := k.LeaseVersion(t.Context(), request, 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := trial.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if u := uses(); !u.Last.IsZero() || len(u.Open) != 0 {
		t.Errorf("proving is no use: %+v", u)
	}
	l, err := k.Lease(t.Context(), request)
	if err != nil {
		t.Fatal(err)
	}
	if u := uses(); u.Last.IsZero() || len(u.Open) != 1 || u.Open[0].Run != "r1" || u.Open[0].Job != "lines" {
		t.Errorf("lent: %+v", u)
	}
	_, two := activate(t, k, 1)
	if err := l.Renew(t.Context()); err != nil {
		t.Fatal(err)
	}
	if u := uses(); len(u.Open) != 0 {
		t.Errorf("the loan went over to the new token: %+v", u)
	}
	all, err := secrets.Uses(f.dir, since)
	if err != nil || len(all[two.Fingerprint].Open) != 1 {
		t.Errorf("the new one: %+v, %v", all, err)
	}
	if err := l.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if all, err = secrets.Uses(f.dir, since); err != nil || len(all[two.Fingerprint].Open) != 0 || all[two.Fingerprint].Last.IsZero() {
		t.Errorf("given back: %+v, %v", all, err)
	}
	if all, err = secrets.Uses(f.dir, time.Now().Add(time.Hour)); err != nil || len(all) != 0 {
		t.Errorf("since later: %+v, %v", all, err)
	}
}

// The environment of a child that rotates and is killed.
const (
	killDir   = "TABLEXPORT_TEST_ROTATE"
	killAt    = "TABLEXPORT_TEST_KILL"  // "before Stage 1", "after Mark 2", …
	killVault = "TABLEXPORT_TEST_VAULT" // "" = the file in the directory; else the address and mount of a Vault
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(killDir); dir != "" {
		if err := killedChild(dir, os.Getenv(killAt), os.Getenv(killVault)); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// killedChild rotates to the token in the directory, and kills itself at one step.
func killedChild(dir, at, vault string) error {
	log, err := audit.Open(filepath.Join(dir, "audit"))
	if err != nil {
		return err
	}
	var v secrets.Vault
	if address, mount, ok := strings.Cut(vault, " "); ok {
		v, err = hashivault.Open(hashivault.Options{Address: address, Mount: mount, Auth: hashivault.Auth{TokenFile: filepath.Join(dir, "token")}})
	} else {
		v, err = filevault.Open(filevault.Options{File: filepath.Join(dir, "vault")})
	}
	if err != nil {
		return err
	}
	met := map[string]int{}
	strike := func(when string) func(string) error {
		return func(op string) error {
			met[when+" "+op]++
			if fmt.Sprint(when, " ", op, " ", met[when+" "+op]) == at {
				p, _ := os.FindProcess(os.Getpid())
				_ = p.Kill() // SIGKILL: nothing of this process goes on
				select {}
			}
			return nil
		}
	}
	in, err := os.Open(filepath.Join(dir, "new"))
	if err != nil {
		return err
	}
	token, err := secrets.ReadToken(in)
	if err != nil {
		return err
	}
	_, err = secrets.NewKeeper(&secretstest.Faulty{Vault: v, Before: strike("before"), After: strike("after")}, log, secrets.Production, "alice").
		Rotate(context.Background(), secrets.Rotation{Name: request.Name, Binding: binding(secrets.Production), Token: token, Verify: good, Retire: refused})
	return err
}

// A process is killed (SIGKILL) before and after every change that a rotation makes; another one ends it.
func TestRotateThroughSIGKILL(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("there is no SIGKILL")
	}
	for _, driver := range []string{"file", "vault"} {
		t.Run(driver, func(t *testing.T) {
			for _, at := range []string{"before Stage 1", "after Stage 1", "before Mark 1", "after Mark 1", "before Activate 1", "after Activate 1", "before Mark 2", "after Mark 2"} {
				dir, where := t.TempDir(), ""
				open := func() secrets.Vault {
					v, err := filevault.Open(filevault.Options{File: filepath.Join(dir, "vault")})
					if err != nil {
						t.Fatal(err)
					}
					return v
				}
				if driver == "vault" {
					server := vaultserver.Start(t)
					mount := server.NewMount(t)
					where = server.Address + " " + mount
					open = openHashi(t, server.Address, mount, server.RootToken)
					if err := os.WriteFile(filepath.Join(dir, "token"), []byte(server.RootToken), 0o600); err != nil {
						t.Fatal(err)
					}
				}
				r := newRotator(t, open)
				if err := os.WriteFile(filepath.Join(dir, "new"), []byte(r.two.Value()), 0o600); err != nil {
					t.Fatal(err)
				}
				child := func(at string) *exec.Cmd {
					cmd := exec.Command(os.Args[0], "-test.run=^$")
					cmd.Env = append(os.Environ(), killDir+"="+dir, killAt+"="+at, killVault+"="+where)
					return cmd
				}
				if out, err := child(at).CombinedOutput(); err == nil || !strings.Contains(err.Error(), "killed") {
					t.Fatalf("%s: the child was not killed: %v\n%s", at, err, out)
				}
				if out, err := child("").CombinedOutput(); err != nil {
					t.Errorf("%s: the next one: %v\n%s", at, err, out)
				}
				r.ended(t)
				if report, err := audit.Verify(filepath.Join(dir, "audit")); err != nil || len(report.Problems) > 0 {
					t.Errorf("%s: audit %v %v", at, report.Problems, err)
				}
			}
		})
	}
}
