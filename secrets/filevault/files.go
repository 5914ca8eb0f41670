package filevault

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"filippo.io/age"

	"github.com/tablexport/tablexport/secrets"
)

// tempMark is in the names of temporary files: FILE.tmp-RANDOM.
const tempMark = ".tmp-"

// openIdentity reads the identity, or makes one if create allows it.
func openIdentity(path string, create bool) (*age.X25519Identity, error) {
	identity, err := readIdentity(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return identity, err
	}
	if !create {
		return nil, fmt.Errorf("%w: the identity file %s is missing; without it the vault cannot be opened: restore it", secrets.ErrUnavailable, path)
	}
	if err := createIdentity(path); err != nil {
		return nil, err
	}
	return readIdentity(path) // perhaps another process's, if that was first
}

func readIdentity(path string) (*age.X25519Identity, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if err != nil {
		return nil, unreadable(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, unreadable(err)
	}
	if mode := info.Mode(); runtime.GOOS != "windows" && mode.Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%w: the identity file %s can be used by others (mode %04o); run: chmod 600 %s", secrets.ErrPermission, path, mode.Perm(), path)
	}
	lines := bufio.NewScanner(f)
	var found *age.X25519Identity
	for lines.Scan() {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		identity, err := age.ParseX25519Identity(line)
		if err != nil || found != nil { // the parser's message may quote the line
			return nil, fmt.Errorf("%w: %s does not hold exactly one age identity (AGE-SECRET-KEY-1…); restore it", secrets.ErrCorrupt, path)
		}
		found = identity
	}
	if lines.Err() != nil || found == nil {
		return nil, fmt.Errorf("%w: %s does not hold an age identity (AGE-SECRET-KEY-1…); restore it", secrets.ErrCorrupt, path)
	}
	return found, nil
}

// createIdentity makes a new identity under a name that others see only when it is whole and on disk: a vault must
// never be encrypted to an identity that a power failure can take away. It leaves an existing file alone.
func createIdentity(path string) error {
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		return fmt.Errorf("filevault: make an identity: %w", err)
	}
	temp, err := writeTemp(path, fmt.Appendf(nil, "# tablexport vault identity; whoever has it can open the vault\n# public key: %s\n%s\n", identity.Recipient(), identity))
	if err != nil {
		return err
	}
	defer os.Remove(temp)
	if err := os.Link(temp, path); err != nil && !errors.Is(err, fs.ErrExist) {
		// A file system without links: give up that it cannot replace another's, of the same instant.
		if err := os.Rename(temp, path); err != nil {
			return fmt.Errorf("filevault: write the identity file: %w", err)
		}
	}
	return syncDir(filepath.Dir(path))
}

// writeTemp writes a synced file with mode 0600 beside path and gives its name.
func writeTemp(path string, data []byte) (string, error) {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+tempMark+"*") // mode 0600
	if err != nil {
		return "", fmt.Errorf("filevault: write beside %s: %w", path, err)
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Sync(), f.Close())
	if err != nil {
		_ = os.Remove(f.Name())
		return "", fmt.Errorf("filevault: write beside %s: %w", path, err)
	}
	return f.Name(), nil
}

// save replaces the file. The lock is held. A crash before the rename leaves the old content, after it the new one.
func (v *Vault) save(doc *document) error {
	plain, err := json.Marshal(doc)
	if err != nil {
		return fmt.Errorf("filevault: encode the vault: %w", err)
	}
	defer clear(plain)
	var sealed bytes.Buffer
	w, err := age.Encrypt(&sealed, v.identity.Recipient())
	if err == nil {
		_, err = w.Write(plain)
		err = errors.Join(err, w.Close())
	}
	if err != nil {
		return fmt.Errorf("filevault: encrypt the vault: %w", err)
	}
	v.sweep()
	if err := v.at("write"); err != nil {
		return err
	}
	temp, err := writeTemp(v.file, sealed.Bytes())
	if err != nil {
		return fmt.Errorf("%w: %w", secrets.ErrUnavailable, err)
	}
	if err := v.at("rename"); err != nil {
		return err
	}
	if err := os.Rename(temp, v.file); err != nil {
		_ = os.Remove(temp)
		return fmt.Errorf("%w: replace the vault: %w", secrets.ErrUnavailable, err)
	}
	err = v.at("sync")
	if err == nil {
		err = syncDir(filepath.Dir(v.file))
	}
	if err != nil {
		// Readers see the new content; whether it survives a power failure is open.
		return fmt.Errorf("%w: %s was replaced, but the disk failed: %w", secrets.ErrUnknown, v.file, err)
	}
	return nil
}

func (v *Vault) at(step string) error {
	if v.step == nil {
		return nil
	}
	return v.step(step)
}

// sweep removes the temporary files of crashed writers. The lock is held: no other writer of the vault is at work. An
// identity is created without the lock, so that one which another process is just making is left alone.
func (v *Vault) sweep() {
	old := time.Now().Add(-time.Minute)
	for _, path := range []string{v.file, v.identityFile} {
		entries, err := os.ReadDir(filepath.Dir(path))
		if err != nil {
			continue
		}
		for _, e := range entries {
			if !strings.HasPrefix(e.Name(), filepath.Base(path)+tempMark) || !e.Type().IsRegular() {
				continue
			}
			if info, err := e.Info(); err == nil && (path == v.file || info.ModTime().Before(old)) {
				_ = os.Remove(filepath.Join(filepath.Dir(path), e.Name())) // what stays is tried again next time
			}
		}
	}
}

// syncDir makes a new name survive a power failure, where directories can be synced.
func syncDir(dir string) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
