package main

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/tablexport/tablexport/export/store"
	"github.com/tablexport/tablexport/secrets/audit"
)

// checkpointPatience is how long the end of a command waits for the store that keeps checkpoints.
const checkpointPatience = 30 * time.Second

// maxCheckpoint bounds what is read of one: they have some hundred bytes.
const maxCheckpoint = 64 << 10

// checkpointKey is where a checkpoint lies below the configured path: one directory a log, names that sort by sequence.
func checkpointKey(log string, seq int64) string { return fmt.Sprintf("%.16s/%020d.json", log, seq) }

// shelf keeps checkpoints of the audit log in a bucket.
func shelf(b store.Bucket) audit.Shelf {
	return audit.Shelf{
		List: func(ctx context.Context, log string, after int64) ([][]byte, error) {
			prefix := fmt.Sprintf("%.16s/", log)
			start := ""
			if after > 0 {
				start = checkpointKey(log, after)
			}
			return readCheckpoints(ctx, b, prefix, start)
		},
		Add: func(ctx context.Context, log string, seq int64, envelope []byte) error {
			return b.PutIfAbsent(ctx, checkpointKey(log, seq), envelope)
		},
	}
}

// readCheckpoints reads every checkpoint in a bucket below prefix and behind start.
func readCheckpoints(ctx context.Context, b store.Bucket, prefix, start string) (all [][]byte, err error) {
	for info, err := range b.List(ctx, prefix, start) {
		if err != nil {
			return nil, err
		}
		if !strings.HasSuffix(info.Key, ".json") || info.Size > maxCheckpoint {
			continue
		}
		r, _, err := b.Open(ctx, info.Key)
		if err != nil {
			return nil, err
		}
		data, err := io.ReadAll(io.LimitReader(r, maxCheckpoint))
		if err = errors.Join(err, r.Close()); err != nil {
			return nil, err
		}
		all = append(all, data)
	}
	return all, nil
}

// checkpoints opens what the configuration says of them: the bucket below their path, with its lock.
func (a *app) checkpoints(ctx context.Context) (store.Bucket, error) {
	c := a.cfg.Audit.Checkpoints
	b, err := a.openBucket(ctx, c.Store, c.Lock)
	if err != nil {
		return nil, err
	}
	return prefixedBucket{store.Prefixed(b, c.Path), b}, nil
}

// prefixedBucket closes the bucket below a prefix with it.
type prefixedBucket struct {
	store.Bucket
	below store.Bucket
}

func (p prefixedBucket) Close() error { return p.below.Close() }

// signLog puts a checkpoint of the audit log where the configuration says. ok is false if there is nothing to sign.
func (a *app) signLog(ctx context.Context, log *audit.Log) (c audit.Checkpoint, ok bool, err error) {
	key, err := audit.ReadKey(a.cfg.Resolve(a.cfg.Audit.Checkpoints.KeyFile))
	if err != nil {
		return c, false, err
	}
	b, err := a.checkpoints(ctx)
	if err != nil {
		return c, false, err
	}
	defer b.Close()
	return log.Checkpoint(ctx, key, shelf(b))
}

// signOnClose signs what this process has added to the log. The acts are recorded and done by now, so that a store that is away
// cannot undo them: whoever runs this is warned, and the next command signs them too.
func (a *app) signOnClose() {
	if a.log == nil || a.cfg.Audit.Checkpoints == nil || !a.log.Appended() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), checkpointPatience)
	defer cancel()
	if _, _, err := a.signLog(ctx, a.log); err != nil {
		a.warn("the audit log has no signed checkpoint of what was just done: " + err.Error())
	}
}

// warn says something on stderr that is no failure of the command.
func (g *globals) warn(text string) {
	if g.json {
		if line, err := json.Marshal(map[string]string{"warning": text}); err == nil {
			fmt.Fprintln(g.err, string(line))
		}
		return
	}
	fmt.Fprintf(g.err, "tablexport: warning: %s\n", text)
}

// evidence is what a log is held to from the outside.
type auditEvidence struct {
	envelopes [][]byte
	keys      []ed25519.PublicKey
}

// auditEvidence collects checkpoints and keys: from a directory and files named on the command line, or as the configuration
// says. ok is false if there are none to be had.
func (g *globals) auditEvidence(ctx context.Context, dir string, keyFiles []string) (e auditEvidence, ok bool, err error) {
	for _, path := range keyFiles {
		key, err := audit.ReadPublicKey(path)
		if err != nil {
			return e, false, err
		}
		e.keys = append(e.keys, key)
	}
	if dir != "" {
		if len(keyFiles) == 0 {
			return e, false, usagef("--checkpoints needs --public-key: the key that signed them")
		}
		e.envelopes, err = checkpointsIn(dir)
		return e, true, err
	}
	if g.state != "" && len(keyFiles) == 0 { // a copy of a log: the configuration is not asked for
		return e, false, nil
	}
	a, err := g.open()
	if err != nil {
		return e, false, err
	}
	defer a.close()
	c := a.cfg.Audit.Checkpoints
	if c == nil {
		if len(keyFiles) > 0 {
			return e, false, usagef("there are no audit.checkpoints in %s; name a directory with --checkpoints", a.config)
		}
		return e, false, nil
	}
	if len(e.keys) == 0 {
		if e.keys, err = a.trustedKeys(); err != nil {
			return e, false, err
		}
	}
	b, err := a.checkpoints(ctx)
	if err != nil {
		return e, false, err
	}
	defer b.Close()
	e.envelopes, err = readCheckpoints(ctx, b, "", "")
	return e, true, err
}

// trustedKeys are the public half of the key that signs, and those of earlier ones.
func (a *app) trustedKeys() (keys []ed25519.PublicKey, err error) {
	c := a.cfg.Audit.Checkpoints
	private, err := audit.ReadKey(a.cfg.Resolve(c.KeyFile))
	if err == nil {
		public, _ := private.Public().(ed25519.PublicKey)
		keys = append(keys, public)
	} else if len(c.TrustedKeys) == 0 {
		return nil, err
	}
	for _, path := range c.TrustedKeys {
		key, err := audit.ReadPublicKey(a.cfg.Resolve(path))
		if err != nil {
			return nil, err
		}
		keys = append(keys, key)
	}
	return keys, nil
}

// checkpointsIn reads the checkpoints below a local directory, such as a copy of the bucket's.
func checkpointsIn(dir string) (all [][]byte, err error) {
	var paths []string
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && strings.HasSuffix(path, ".json") {
			paths = append(paths, path)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	slices.Sort(paths)
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		if len(data) <= maxCheckpoint {
			all = append(all, data)
		}
	}
	return all, nil
}
