package main

import (
	"cmp"
	"context"
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

// seenConfig is the configuration that was last recorded in the audit log, to compare the next one with. It lies in the state
// directory, in a file of mode 0600: like the configuration itself it holds filter texts and no secret.
type seenConfig struct {
	Digest string            `json:"sha256"`
	Values map[string]string `json:"values"`
}

// recordConfig writes an audit entry if the configuration is another one than was last recorded here, with the keys that
// changed. A change of policy is an entry of its own, with old and new values. What the entry precedes is not done without it.
//
// A crash between the entry and the file records the same change again; two processes that start at once may both record it.
func (a *app) recordConfig(ctx context.Context, log *audit.Log) error {
	now := seenConfig{Digest: a.cfg.Digest(), Values: a.cfg.Flatten()}
	path := filepath.Join(a.stateDir(), "config-seen.json")
	var before seenConfig
	data, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if json.Unmarshal(data, &before) != nil {
		before = seenConfig{}
	}
	if before.Digest == now.Digest {
		return nil
	}
	entry := func(action string, detail map[string]string) error {
		_, err := log.Append(ctx, audit.Entry{Actor: actor(), Action: action, Subject: a.cfg.Path, Outcome: audit.OK, Detail: detail})
		if err != nil {
			return fmt.Errorf("%w: %w", secrets.ErrAudit, err)
		}
		return nil
	}
	changed := changedKeys(before.Values, now.Values)
	detail := map[string]string{"sha256": now.Digest, "before": cmp.Or(before.Digest, "not known"), "keys": strconv.Itoa(len(changed))}
	if before.Digest != "" {
		detail["changed"] = strings.Join(changed, " ")
	}
	if err := entry("config", detail); err != nil {
		return err
	}
	policy := map[string]string{}
	for _, key := range changed {
		if strings.HasPrefix(key, "policy.") || strings.HasPrefix(key, "rotations.") || key == "environment" {
			policy[key] = cmp.Or(before.Values[key], "not set") + " → " + cmp.Or(now.Values[key], "not set")
		}
	}
	if len(policy) > 0 {
		if err := entry("policy", policy); err != nil {
			return err
		}
	}
	if data, err = json.Marshal(now); err != nil {
		return err
	}
	next := path + "." + strconv.Itoa(os.Getpid())
	if err := os.WriteFile(next, append(data, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(next, path)
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
