package hashivault

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/tablexport/tablexport/secrets"
)

// The keys of the custom metadata of tokens/NAME. KV version 2 has it for a secret as a whole, at most 64 keys
// (https://developer.hashicorp.com/vault/api-docs/secret/kv/kv-v2#create-update-metadata), so what belongs to a version has its number in the key, and
// the keys of old versions go. Without a number they say what the active version has, for people and other tools; nothing here believes those.
const (
	ownerKey      = "owner"
	expiresKey    = "expires"
	scopesKey     = "scopes"
	describedKept = 24 // versions
)

func versionKey(number int, key string) string { return "v" + strconv.Itoa(number) + "_" + key }

// attributes are what the custom metadata says of a version. What cannot be read is not known: people may have written it.
func (m kvMetadata) attributes(number int) secrets.Attributes {
	a := secrets.Attributes{Scopes: m.Custom[versionKey(number, scopesKey)], Owner: m.Custom[ownerKey]}
	if at, err := time.Parse(time.RFC3339, m.Custom[versionKey(number, expiresKey)]); err == nil {
		a.Expires = at.UTC()
	}
	if normal, err := a.Normal(); err == nil {
		return normal
	}
	return secrets.Attributes{}
}

// Describe implements secrets.Vault, by a merge patch: keys that are not named stay as others leave them.
func (v *Vault) Describe(ctx context.Context, name string, number int, a secrets.Attributes) error {
	if err := secrets.CheckName(name); err != nil {
		return err
	}
	meta, err := v.existing(ctx, name)
	if err != nil {
		return err
	}
	if _, ok := meta.Versions[number]; !ok {
		return fmt.Errorf("%w: version %d of %s", secrets.ErrNotFound, number, name)
	}
	state, _, err := v.state(ctx, name)
	if err != nil {
		return err
	}
	patch := map[string]*string{}
	set := func(key, value string) {
		if value != "" {
			patch[key] = &value
		}
	}
	set(ownerKey, a.Owner)
	set(versionKey(number, scopesKey), a.Scopes)
	if !a.Expires.IsZero() {
		set(versionKey(number, expiresKey), a.Expires.UTC().Format(time.RFC3339))
	}
	if state.active(meta.Versions[number]) {
		show(patch, meta.attributes(number).Over(a))
	}
	for key := range meta.Custom {
		if n, ok := keyVersion(key); ok && n != state.Active && n <= meta.CurrentVersion-describedKept {
			patch[key] = nil
		}
	}
	return v.patch(ctx, name, patch)
}

// show sets the keys that say what the active version has.
func show(patch map[string]*string, a secrets.Attributes) {
	patch[scopesKey], patch[expiresKey] = nil, nil
	if a.Scopes != "" {
		patch[scopesKey] = &a.Scopes
	}
	if !a.Expires.IsZero() {
		text := a.Expires.Format(time.RFC3339)
		patch[expiresKey] = &text
	}
}

// keyVersion is the version that a key of custom metadata belongs to.
func keyVersion(key string) (int, bool) {
	number, what, ok := strings.Cut(strings.TrimPrefix(key, "v"), "_")
	n, err := strconv.Atoi(number)
	return n, ok && err == nil && key[0] == 'v' && (what == expiresKey || what == scopesKey)
}

// patch changes keys of the custom metadata of a token; nil removes one. Doing it twice is doing it once.
func (v *Vault) patch(ctx context.Context, name string, custom map[string]*string) error {
	return v.writeMetadata(ctx, http.MethodPatch, "patch", name, map[string]any{"custom_metadata": custom})
}

// writeMetadata writes to the metadata of a token, again where the answer was lost: it must be such that twice is once.
func (v *Vault) writeMetadata(ctx context.Context, method, act, name string, content map[string]any) error {
	path := v.path("metadata", "tokens/"+name)
	body, err := json.Marshal(content)
	if err != nil {
		return fmt.Errorf("hashivault: encode metadata: %w", err)
	}
	for try := 1; ; try++ {
		a, err := v.call(ctx, method, path, nil, body)
		switch {
		case err != nil:
			return err
		case a.ok():
			return nil
		case !a.lost() || try == readTries || !pause(ctx, try):
			return v.fault(ctx, a, act, path)
		}
	}
}

// useData is the content of uses/NAME.
type useData struct {
	Format int                `json:"format"`
	Uses   []secrets.PlaceUse `json:"uses"`
}

// uses reads who has used a token; cas is what a write of the next one must check for.
func (v *Vault) uses(ctx context.Context, name string) (data useData, cas int, err error) {
	rest := "uses/" + name
	version, found, err := v.kvGet(ctx, rest, 0, &data)
	switch {
	case err != nil:
		return useData{}, 0, err
	case !found || version.gone():
		data = useData{Format: format}
	case data.Format != format:
		return useData{}, 0, v.corrupt(v.path("data", rest))
	}
	return data, version.Version, nil
}

// Used implements secrets.Vault, by check-and-set: others write it too. Doing it twice is doing it once, so that an answer that got lost needs no care.
func (v *Vault) Used(ctx context.Context, name string, u secrets.PlaceUse) error {
	if err := secrets.CheckName(name); err != nil {
		return err
	}
	if _, err := v.existing(ctx, name); err != nil {
		return err
	}
	rest := "uses/" + name
	path := v.path("data", rest)
	for try := 1; ; try++ {
		data, cas, err := v.uses(ctx, name)
		if err != nil {
			return err
		}
		data.Uses = secrets.AddUse(data.Uses, u)
		a, err := v.put(ctx, rest, data, cas)
		switch {
		case err != nil:
			return err
		case a.ok():
			return nil
		case !a.conflict() && !a.lost(), try == writeTries, !pause(ctx, try):
			return v.fault(ctx, a, "update", path)
		}
	}
}

// Uses implements secrets.Vault.
func (v *Vault) Uses(ctx context.Context, name string) ([]secrets.PlaceUse, error) {
	if err := secrets.CheckName(name); err != nil {
		return nil, err
	}
	data, _, err := v.uses(ctx, name)
	if err == nil && len(data.Uses) == 0 {
		_, err = v.existing(ctx, name)
	}
	return data.Uses, err
}
