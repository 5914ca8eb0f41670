package filevault

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/tablexport/tablexport/secrets"
	"github.com/tablexport/tablexport/secrets/secretstest"
)

func open(t testing.TB, dir string) *Vault {
	t.Helper()
	v, err := Open(Options{File: filepath.Join(dir, "secrets.age")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = v.Close() })
	return v
}

func stage(t testing.TB, v *Vault, name string) secretstest.Canary {
	t.Helper()
	c := secretstest.NewCanary(t)
	if _, err := v.Stage(context.Background(), name, c.Token, "fp:0", secretstest.Binding); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestConformance(t *testing.T) {
	secretstest.Run(t, func(t *testing.T) func(*testing.T) secrets.Vault {
		dir := filepath.Join(t.TempDir(), "new", "directory")
		return func(t *testing.T) secrets.Vault { return open(t, dir) }
	})
}

func TestFirstUse(t *testing.T) {
	dir := t.TempDir()
	v := open(t, dir)
	if _, err := os.Stat(v.file); !errors.Is(err, os.ErrNotExist) {
		t.Error("opening wrote the vault")
	}
	c := stage(t, v, "bi/x")
	for _, path := range []string{v.file, v.identityFile, v.file + ".lock"} {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", path, info.Mode().Perm())
		}
	}
	c.AbsentFromDir(t, dir)
	data, _ := os.ReadFile(v.file)
	if !bytes.HasPrefix(data, []byte("age-encryption.org/v1\n")) || bytes.Contains(data, []byte("bi/x")) {
		t.Error("the file is not an age file, or names are readable in it")
	}
	// Any age implementation opens it with that identity.
	text, _ := os.ReadFile(v.identityFile)
	identities, err := age.ParseIdentities(bytes.NewReader(text))
	if err != nil || len(identities) != 1 {
		t.Fatalf("identity file: %v", err)
	}
	if _, err := age.Decrypt(bytes.NewReader(data), identities...); err != nil {
		t.Error(err)
	}
}

func TestIdentityReadableByOthers(t *testing.T) {
	dir := t.TempDir()
	v := open(t, dir)
	stage(t, v, "bi/x")
	for _, mode := range []os.FileMode{0o640, 0o604, 0o660, 0o620} {
		if err := os.Chmod(v.identityFile, mode); err != nil {
			t.Fatal(err)
		}
		_, err := Open(Options{File: v.file})
		if !errors.Is(err, secrets.ErrPermission) || !strings.Contains(fmt.Sprint(err), "chmod 600 "+v.identityFile) {
			t.Errorf("mode %v: %v", mode, err)
		}
	}
}

func TestRefusesToOpen(t *testing.T) {
	newVault := func(t *testing.T) (*Vault, secretstest.Canary) {
		v := open(t, t.TempDir())
		return v, stage(t, v, "bi/x")
	}
	cases := map[string]struct {
		spoil func(t *testing.T, v *Vault)
		want  error
		text  string
	}{
		"identity missing": {func(t *testing.T, v *Vault) { _ = os.Remove(v.identityFile) }, secrets.ErrUnavailable, "is missing"},
		"another vault's identity": {func(t *testing.T, v *Vault) {
			other, _ := newVault(t)
			data, _ := os.ReadFile(other.identityFile)
			_ = os.WriteFile(v.identityFile, data, 0o600)
		}, secrets.ErrPermission, "different vaults"},
		"identity damaged":  {func(t *testing.T, v *Vault) { _ = os.WriteFile(v.identityFile, []byte("AGE-SECRET-KEY-1QQ\n"), 0o600) }, secrets.ErrCorrupt, "one age identity"},
		"identity empty":    {func(t *testing.T, v *Vault) { _ = os.WriteFile(v.identityFile, nil, 0o600) }, secrets.ErrCorrupt, "an age identity"},
		"vault empty":       {func(t *testing.T, v *Vault) { _ = os.WriteFile(v.file, nil, 0o600) }, secrets.ErrCorrupt, "no age file"},
		"vault no age file": {func(t *testing.T, v *Vault) { _ = os.WriteFile(v.file, []byte("tokens:\n"), 0o600) }, secrets.ErrCorrupt, "no age file"},
		"vault cut":         {func(t *testing.T, v *Vault) { _ = os.Truncate(v.file, 300) }, secrets.ErrCorrupt, "damaged"},
		"a newer format":    {func(t *testing.T, v *Vault) { seal(t, v, `{"format":2,"tokens":{},"more":1}`) }, secrets.ErrCorrupt, "its format is 2"},
		"not JSON":          {func(t *testing.T, v *Vault) { seal(t, v, `enrt_leaked`) }, secrets.ErrCorrupt, "not a vault's"},
		"bad document":      {func(t *testing.T, v *Vault) { seal(t, v, `{"format":1,"tokens":{"bi/x":{"active":3,"versions":[]}}}`) }, secrets.ErrCorrupt, "active version of bi/x is missing"},
		"null entry":        {func(t *testing.T, v *Vault) { seal(t, v, `{"format":1,"tokens":{"bi/x":null}}`) }, secrets.ErrCorrupt, "bi/x"},
		"null version": {func(t *testing.T, v *Vault) {
			seal(t, v, `{"format":1,"tokens":{"bi/x":{"active":0,"versions":[null]}}}`)
		}, secrets.ErrCorrupt, "bi/x"},
		"unknown member": {func(t *testing.T, v *Vault) { seal(t, v, `{"format":1,"tokens":{},"x":1}`) }, secrets.ErrCorrupt, "not a vault's"},
		"a directory":    {func(t *testing.T, v *Vault) { _ = os.Remove(v.file); _ = os.Mkdir(v.file, 0o700) }, secrets.ErrUnavailable, "directory"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			v, canary := newVault(t)
			key, _ := os.ReadFile(v.identityFile)
			c.spoil(t, v)
			_, err := Open(Options{File: v.file})
			if !errors.Is(err, c.want) || !strings.Contains(fmt.Sprint(err), c.text) {
				t.Errorf("err = %v, want %v with %q", err, c.want, c.text)
			}
			canary.AbsentFromError(t, "error", err)
			text := fmt.Sprintf("%+v", err)
			if strings.Contains(text, "enrt_leaked") || strings.Contains(text, "KEY-1QQ") || len(key) > 0 && strings.Contains(text, string(key[len(key)-40:len(key)-1])) {
				t.Errorf("the error quotes a secret: %v", err)
			}
		})
	}
	if _, err := Open(Options{}); err == nil {
		t.Error("opened nothing")
	}
	if _, err := Open(Options{File: "x", IdentityFile: "./x"}); err == nil {
		t.Error("one file for both")
	}
}

func seal(t testing.TB, v *Vault, plain string) {
	t.Helper()
	var b bytes.Buffer
	w, err := age.Encrypt(&b, v.identity.Recipient())
	if err != nil {
		t.Fatal(err)
	}
	_, _ = w.Write([]byte(plain))
	_ = w.Close()
	if err := os.WriteFile(v.file, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
}

// Damage anywhere in the file is found: nothing is ever read out of a changed file.
func TestDamageIsFound(t *testing.T) {
	v := open(t, t.TempDir())
	stage(t, v, "bi/x")
	good, _ := os.ReadFile(v.file)
	for i := 0; i < len(good); i += 3 {
		bad := slices.Clone(good)
		bad[i] ^= 0x10
		_ = os.WriteFile(v.file, bad, 0o600)
		if _, _, err := v.Read(t.Context(), "bi/x", 1); !errors.Is(err, secrets.ErrCorrupt) && !errors.Is(err, secrets.ErrPermission) {
			t.Fatalf("byte %d changed: err = %v", i, err)
		}
	}
}

var errCrash = errors.New("crash")

// A crash before each step, as it leaves the directory: old content before the rename, new content after it, never
// anything else, never a plain token in a file, and the next change works and clears up.
func TestCrashAtEachStep(t *testing.T) {
	for _, step := range []string{"write", "rename", "sync"} {
		t.Run(step, func(t *testing.T) {
			dir := t.TempDir()
			v := open(t, dir)
			one := stage(t, v, "bi/x")
			if err := v.Activate(t.Context(), "bi/x", 1, 0); err != nil {
				t.Fatal(err)
			}
			v.step = func(name string) error {
				if name == step {
					return errCrash
				}
				return nil
			}
			two := secretstest.NewCanary(t)
			_, err := v.Stage(t.Context(), "bi/x", two.Token, "fp:2", secretstest.Binding)
			persisted := step == "sync"
			if !errors.Is(err, errCrash) || errors.Is(err, secrets.ErrUnknown) != persisted {
				t.Fatalf("err = %v", err)
			}
			two.AbsentFromError(t, "error", err)
			one.AbsentFromDir(t, dir)
			two.AbsentFromDir(t, dir)
			after := open(t, dir)
			n, err := after.Versions(t.Context(), "bi/x")
			if err != nil || (len(n.Versions) == 2) != persisted || n.Active != 1 {
				t.Fatalf("%+v %v", n, err)
			}
			if token, _, err := after.Read(t.Context(), "bi/x", 0); err != nil || !token.Equal(one.Token) {
				t.Errorf("the active token: %v", err)
			}
			stage(t, after, "bi/x")
			left, _ := filepath.Glob(filepath.Join(dir, "*"+tempMark+"*"))
			if len(left) > 0 {
				t.Errorf("left lying: %v", left)
			}
		})
	}
}

// The disk fails after the rename: the caller is told that it does not know, and finds out by looking.
func TestPersistedButSaidItFailed(t *testing.T) {
	dir := t.TempDir()
	v := open(t, dir)
	stage(t, v, "bi/x")
	v.step = func(name string) error {
		if name == "sync" {
			return errors.New("input/output error")
		}
		return nil
	}
	if err := v.Activate(t.Context(), "bi/x", 1, 0); !errors.Is(err, secrets.ErrUnknown) {
		t.Fatalf("err = %v", err)
	}
	v.step = nil
	if n, _ := v.Versions(t.Context(), "bi/x"); n.Active != 1 {
		t.Error("not active")
	}
	if err := v.Activate(t.Context(), "bi/x", 1, 0); !errors.Is(err, secrets.ErrConflict) {
		t.Errorf("doing it again: %v", err)
	}
}

func TestReadOnlyDirectory(t *testing.T) {
	if os.Getuid() == 0 {
		t.Skip("root may write everywhere; TestUnwritableFile covers the failed write")
	}
	dir := t.TempDir()
	v := open(t, dir)
	stage(t, v, "bi/x")
	_ = os.Chmod(dir, 0o500)
	defer os.Chmod(dir, 0o700)
	c := secretstest.NewCanary(t)
	_, err := v.Stage(t.Context(), "bi/x", c.Token, "fp:2", secretstest.Binding)
	if err == nil {
		t.Fatal("staged")
	}
	c.AbsentFromError(t, "error", err)
	if n, err := v.Versions(t.Context(), "bi/x"); err != nil || len(n.Versions) != 1 {
		t.Errorf("%+v %v", n, err)
	}
}

// What the rename cannot replace: the temporary file is removed, nothing changed.
func TestUnwritableFile(t *testing.T) {
	dir := t.TempDir()
	v := open(t, dir)
	stage(t, v, "bi/x")
	v.step = func(name string) error {
		if name == "rename" { // someone puts a directory in the way
			_ = os.Rename(v.file, v.file+".aside")
			return os.Mkdir(v.file, 0o700)
		}
		return nil
	}
	c := secretstest.NewCanary(t)
	_, err := v.Stage(t.Context(), "bi/x", c.Token, "fp:2", secretstest.Binding)
	if !errors.Is(err, secrets.ErrUnavailable) {
		t.Fatalf("err = %v", err)
	}
	c.AbsentFromError(t, "error", err)
	if left, _ := filepath.Glob(filepath.Join(dir, "*"+tempMark+"*")); len(left) > 0 {
		t.Errorf("left lying: %v", left)
	}
}

// Processes killed at any moment, others writing all the while: what a process was told is stored is there afterwards.
func TestKilledProcesses(t *testing.T) {
	dir := t.TempDir()
	open(t, dir)
	var mu sync.Mutex
	acknowledged := map[string]int{}
	var wg sync.WaitGroup
	for i := range 3 {
		wg.Go(func() {
			name := fmt.Sprint("bi/p", i)
			for round := range 3 {
				cmd := exec.Command(os.Args[0], "-test.run=^TestMain$")
				cmd.Env = append(os.Environ(), "FILEVAULT_TEST_CHILD="+name, "FILEVAULT_TEST_DIR="+dir)
				out, err := cmd.StdoutPipe()
				if err != nil {
					t.Error(err)
					return
				}
				if err := cmd.Start(); err != nil {
					t.Error(err)
					return
				}
				strike := sync.OnceFunc(func() {
					time.AfterFunc(time.Duration(50+60*round+25*i)*time.Millisecond, func() { _ = cmd.Process.Kill() })
				})
				if round > 0 {
					strike() // whatever it is doing by then; on a slow machine it may not have begun
				}
				buf := make([]byte, 1<<16)
				for {
					n, err := out.Read(buf)
					if n > 0 {
						strike() // the first process of each name has stored something
					}
					mu.Lock()
					acknowledged[name] += bytes.Count(buf[:n], []byte("ok\n"))
					mu.Unlock()
					if err != nil {
						break
					}
				}
				_ = cmd.Wait()
			}
		})
	}
	wg.Wait()
	v := open(t, dir)
	total := 0
	for i := range 3 {
		name := fmt.Sprint("bi/p", i)
		n, err := v.Versions(t.Context(), name)
		if err != nil && acknowledged[name] > 0 {
			t.Errorf("%s: %v", name, err)
		}
		// Each killed process may have stored one that it could not tell of any more.
		if got := len(n.Versions); got < acknowledged[name] || got > acknowledged[name]+3 {
			t.Errorf("%s: %d versions, %d were acknowledged", name, got, acknowledged[name])
		}
		total += acknowledged[name]
	}
	if total == 0 {
		t.Error("nothing was stored at all")
	}
	stage(t, v, "bi/x")
}

func TestSymlinkStays(t *testing.T) {
	real, dir := t.TempDir(), t.TempDir()
	v := open(t, real)
	stage(t, v, "bi/x")
	link := filepath.Join(dir, "link.age")
	if err := os.Symlink(v.file, link); err != nil {
		t.Skip(err)
	}
	linked, err := Open(Options{File: link, IdentityFile: v.identityFile})
	if err != nil {
		t.Fatal(err)
	}
	stage(t, linked, "bi/x")
	if info, err := os.Lstat(link); err != nil || info.Mode()&os.ModeSymlink == 0 {
		t.Error("the link was replaced")
	}
	if n, _ := v.Versions(t.Context(), "bi/x"); len(n.Versions) != 2 {
		t.Errorf("%+v", n)
	}
}

func TestClosed(t *testing.T) {
	v := open(t, t.TempDir())
	_ = v.Close()
	if _, err := v.List(t.Context()); !errors.Is(err, secrets.ErrUnavailable) {
		t.Error(err)
	}
}

func TestMain(m *testing.M) {
	name := os.Getenv("FILEVAULT_TEST_CHILD")
	if name == "" {
		os.Exit(m.Run())
	}
	v, err := Open(Options{File: filepath.Join(os.Getenv("FILEVAULT_TEST_DIR"), "secrets.age")})
	for err == nil {
		var token secrets.Token
		token, err = secrets.NewToken([]byte("enrt_child"))
		if err == nil {
			_, err = v.Stage(context.Background(), name, token, "fp:0", secretstest.Binding)
		}
		if err == nil {
			fmt.Println("ok")
		}
	}
	fmt.Println(err)
	os.Exit(1)
}
