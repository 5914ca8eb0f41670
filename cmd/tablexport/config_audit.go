package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/tablexport/tablexport/secrets"
	"github.com/tablexport/tablexport/secrets/audit"
)

// seenConfig is the configuration that was last recorded in the audit log, to tell which keys of the next one are others. It lies in the state
// directory, in a file of mode 0600: like the configuration itself it holds filter texts and no secret. The file is not believed: the audit entry holds its hash.
type seenConfig struct {
	Digest string            `json:"sha256"`
	Values map[string]string `json:"values"`
}

// seenDetail is the member of a config entry that holds the SHA-256 of the file.
const seenDetail = "seen"

// recordConfig writes an audit entry if the configuration is another one than was last recorded here, with the keys that
// changed. A change of policy is an entry of its own, with old and new values. What the entry precedes is not done without it.
//
// What was recorded last is what the audit log says. The file beside it has the old values, and counts only if it is the one whose hash is in that entry: whoever edits,
// replaces or removes it cannot hide a change, and the entry says that the old values are not known.
//
// A crash between the entry and the file leaves an old file: it is written anew, and an entry says so. Two processes that start at once may both record a change.
func (a *app) recordConfig(ctx context.Context, log *audit.Log) error {
	now := seenConfig{Digest: a.cfg.Digest(), Values: a.cfg.Flatten()}
	path := filepath.Join(a.stateDir(), "config-seen.json")
	content, err := json.Marshal(now)
	if err != nil {
		return err
	}
	last, recorded, err := audit.Last(a.auditDir(), "config")
	damaged := errors.Is(err, audit.ErrDamaged) // audit verify says where; a log that is damaged must not keep this from being recorded
	if err != nil && !damaged {
		return fmt.Errorf("the configuration that was used last is not known: %w", err)
	}
	before, trusted, err := readSeen(path, last)
	if err != nil {
		return err
	}
	if recorded && last.Detail["sha256"] == now.Digest && trusted {
		return nil
	}
	if err := a.recordChange(ctx, log, now, before, last, damaged, hashOf(content)); err != nil {
		return err
	}
	return replaceFile(path, append(content, '\n'))
}

// replaceFile writes a file of mode 0600 beside path and moves it there. A crash in between leaves that file. Its name is nobody else's: a process id
// would be another's too, in one process or in containers.
func replaceFile(path string, content []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

// recordChange writes the entries. before has no digest if the old values are not known.
func (a *app) recordChange(ctx context.Context, log *audit.Log, now, before seenConfig, last audit.Entry, damaged bool, seen string) error {
	entry := func(action string, detail map[string]string) error {
		_, err := log.Append(ctx, audit.Entry{Actor: actor(), Action: action, Subject: a.cfg.Path, Outcome: audit.OK, Detail: detail})
		if err != nil {
			return fmt.Errorf("%w: %w", secrets.ErrAudit, err)
		}
		return nil
	}
	changed := changedKeys(before.Values, now.Values)
	was := last.Detail["sha256"]
	detail := map[string]string{"sha256": now.Digest, "before": cmp.Or(was, "not known"), seenDetail: seen}
	if before.Digest != "" {
		detail["keys"], detail["changed"] = strconv.Itoa(len(changed)), strings.Join(changed, " ")
	} else if damaged {
		detail["tampered"] = "the entry of the configuration before is damaged: run audit verify"
	} else if was != "" {
		detail["tampered"] = "config-seen.json in the state directory is not the one that was written: which keys have changed is not known"
	}
	if err := entry("config", detail); err != nil {
		return err
	}
	if was == now.Digest {
		return nil // nothing has changed but the file
	}
	policy := map[string]string{}
	for _, key := range changed {
		if strings.HasPrefix(key, "policy.") || strings.HasPrefix(key, "rotations.") || key == "environment" {
			old := cmp.Or(before.Values[key], "not set")
			if before.Digest == "" && was != "" {
				old = "not known"
			}
			policy[key] = old + " → " + cmp.Or(now.Values[key], "not set")
		}
	}
	if len(policy) == 0 {
		return nil
	}
	return entry("policy", policy)
}

// readSeen reads the file of the configuration before. trusted is false, and there are no values, unless it is the one that the entry last speaks of.
func readSeen(path string, last audit.Entry) (before seenConfig, trusted bool, err error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return seenConfig{}, false, nil
	}
	if err != nil {
		return seenConfig{}, false, err
	}
	trusted = hashOf(bytes.TrimSuffix(data, []byte("\n"))) == last.Detail[seenDetail] && json.Unmarshal(data, &before) == nil && before.Digest == last.Detail["sha256"]
	if !trusted {
		before = seenConfig{}
	}
	return before, trusted, nil
}

func hashOf(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// changedKeys lists the keys whose values differ, sorted.
func changedKeys(before, now map[string]string) (keys []string) {
	for key, value := range now {
		if old, ok := before[key]; !ok || old != value {
			keys = append(keys, key)
		}
	}
	for key := range before {
		if _, ok := now[key]; !ok {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return keys
}
