package hashivault

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tablexport/tablexport/secrets"
)

// format is the version of what is written. A later one is refused, not guessed at.
const format = 1

// keepVersions is set as max_versions on a token's first use: decades of rotation. Vault's own default is 10.
const keepVersions = 100

// defaultVersions is what Vault keeps where nothing is set. A higher value of the mount is not known here, which errs on
// the safe side.
const defaultVersions = 10

// tokenData is the content of one version of tokens/NAME.
type tokenData struct {
	Format      int    `json:"format"`
	Token       string `json:"token"`
	Fingerprint string `json:"fingerprint"`
	Instance    string `json:"instance"`
	Host        string `json:"host"`
	Environment string `json:"environment"`
	Change      string `json:"change"` // id of the write, to find it again when its answer got lost
}

func (d tokenData) binding() secrets.Binding {
	return secrets.Binding{Instance: d.Instance, Host: d.Host, Environment: d.Environment}
}

// stateData is the content of state/NAME.
type stateData struct {
	Format        int                  `json:"format"`
	Active        int                  `json:"active"` // 0 = none
	ActiveCreated time.Time            `json:"active_created,omitzero"`
	Versions      map[int]versionState `json:"versions"`
}

// active says whether kv is the active version: that very one, not another of the same number that was made after the
// secret had been removed.
func (s stateData) active(kv kvVersion) bool {
	return s.Active > 0 && s.Active == kv.Version && s.ActiveCreated.Equal(kv.CreatedTime)
}

// versionState is what is known of a version without its value.
type versionState struct {
	Created     time.Time `json:"created"` // by Vault's clock: tells this version from one of the same number, before or after
	Activated   time.Time `json:"activated,omitzero"`
	Change      string    `json:"change,omitempty"` // id of the write that activated it last
	Retiring    time.Time `json:"retiring,omitzero"`
	Verified    mark      `json:"verified,omitzero"`
	Retired     mark      `json:"retired,omitzero"`
	Rejected    mark      `json:"rejected,omitzero"`
	Fingerprint string    `json:"fingerprint,omitempty"`
	Instance    string    `json:"instance,omitempty"`
	Host        string    `json:"host,omitempty"`
	Environment string    `json:"environment,omitempty"`
}

// mark is when a version came into a state, and the id of the write that said so.
type mark struct {
	At     time.Time `json:"at"`
	Change string    `json:"change"`
}

// kvVersion is what Vault says of a version.
type kvVersion struct {
	Version      int       `json:"version"`
	CreatedTime  time.Time `json:"created_time"`
	DeletionTime string    `json:"deletion_time"` // "", or RFC 3339; in the future if the mount deletes by itself
	Destroyed    bool      `json:"destroyed"`
}

func (k kvVersion) gone() bool {
	at, err := time.Parse(time.RFC3339Nano, k.DeletionTime)
	return k.Destroyed || err == nil && !at.After(time.Now())
}

// kvMetadata is what Vault says of a secret.
type kvMetadata struct {
	CreatedTime    time.Time         `json:"created_time"`
	CurrentVersion int               `json:"current_version"`
	MaxVersions    int               `json:"max_versions"`
	Versions       map[int]kvVersion `json:"versions"`
	Custom         map[string]string `json:"custom_metadata"`
}

// oldestAfter is the lowest version that is left after n more were written.
func (m kvMetadata) oldestAfter(n int) int {
	return m.CurrentVersion + n - cmp.Or(m.MaxVersions, defaultVersions) + 1
}

func (v *Vault) path(kind, rest string) string {
	return v.opts.Mount + "/" + kind + "/" + v.opts.Prefix + "/" + rest
}

func (v *Vault) corrupt(path string) error {
	return fmt.Errorf("%w: %s in Vault; tokens are put there by tablexport tokens stage", secrets.ErrCorrupt, path)
}

// kvGet reads a version of a secret (0 = the current one) into data. found is false if there is none; then, and if
// version.gone(), data is as before.
func (v *Vault) kvGet(ctx context.Context, rest string, number int, data any) (version kvVersion, found bool, err error) {
	path := v.path("data", rest)
	var query url.Values
	if number > 0 {
		query = url.Values{"version": {strconv.Itoa(number)}}
	}
	a, ok, err := v.get(ctx, path, query)
	if err != nil {
		return kvVersion{}, false, err
	}
	defer clear(a.body)
	var reply struct {
		Data *struct {
			Data     json.RawMessage `json:"data"`
			Metadata kvVersion       `json:"metadata"`
		} `json:"data"`
	}
	if err := json.Unmarshal(a.body, &reply); err != nil || reply.Data == nil {
		if !ok {
			return kvVersion{}, false, nil
		}
		return kvVersion{}, false, v.corrupt(path)
	}
	defer clear(reply.Data.Data)
	version = reply.Data.Metadata
	if version.Version < 1 {
		return kvVersion{}, false, v.corrupt(path)
	}
	if version.gone() {
		return version, true, nil
	}
	if err := json.Unmarshal(reply.Data.Data, data); err != nil { // the message could quote the value
		return kvVersion{}, false, v.corrupt(path)
	}
	return version, true, nil
}

// tokenVersion reads one version of a token. The error is ErrNotFound, ErrDeleted or ErrCorrupt.
func (v *Vault) tokenVersion(ctx context.Context, name string, number int) (tokenData, kvVersion, error) {
	var data tokenData
	rest := "tokens/" + name
	version, found, err := v.kvGet(ctx, rest, number, &data)
	switch {
	case err != nil:
	case !found || version.Version != number:
		err = fmt.Errorf("%w: version %d of %s", secrets.ErrNotFound, number, name)
	case version.gone():
		err = deleted(name, version)
	case data.Format > format:
		err = fmt.Errorf("%w: version %d of %s has format %d and this program knows format %d", secrets.ErrCorrupt, number, name, data.Format, format)
	case data.Format != format || data.Token == "" || data.Fingerprint == "" || data.binding() == (secrets.Binding{}):
		err = v.corrupt(v.path("data", rest) + "?version=" + strconv.Itoa(number))
	}
	if err != nil {
		return tokenData{}, kvVersion{}, err
	}
	return data, version, nil
}

func deleted(name string, version kvVersion) error {
	if version.Destroyed {
		return fmt.Errorf("%w: version %d of %s was destroyed; stage the token anew", secrets.ErrDeleted, version.Version, name)
	}
	return fmt.Errorf("%w: version %d of %s (vault kv undelete brings it back)", secrets.ErrDeleted, version.Version, name)
}

// state reads the state of a token; cas is what a write of the next one must check for.
func (v *Vault) state(ctx context.Context, name string) (data stateData, cas int, err error) {
	rest := "state/" + name
	version, found, err := v.kvGet(ctx, rest, 0, &data)
	switch {
	case err != nil:
		return stateData{}, 0, err
	case !found || version.gone():
		data = stateData{Format: format}
	case data.Format != format:
		return stateData{}, 0, v.corrupt(v.path("data", rest))
	}
	if data.Versions == nil {
		data.Versions = map[int]versionState{}
	}
	return data, version.Version, nil
}

// metadata reads what Vault knows of a token's versions; found is false if there is none.
func (v *Vault) metadata(ctx context.Context, name string) (meta kvMetadata, found bool, err error) {
	path := v.path("metadata", "tokens/"+name)
	a, found, err := v.get(ctx, path, nil)
	if err != nil || !found {
		return kvMetadata{}, false, err
	}
	var reply struct {
		Data *kvMetadata `json:"data"`
	}
	if err := json.Unmarshal(a.body, &reply); err != nil || reply.Data == nil {
		return kvMetadata{}, false, v.corrupt(path)
	}
	meta = *reply.Data
	if meta.CreatedTime.IsZero() {
		return kvMetadata{}, false, fmt.Errorf("%w: mount %s of Vault is not a KV version 2 engine; enable it with vault kv enable-versioning %s, or name another mount",
			secrets.ErrSetup, v.opts.Mount, v.opts.Mount)
	}
	for number, version := range meta.Versions {
		version.Version = number
		meta.Versions[number] = version
	}
	return meta, true, nil
}

// existing is metadata of a token that has at least one version. A crash in the first Stage leaves one that has none.
func (v *Vault) existing(ctx context.Context, name string) (kvMetadata, error) {
	meta, found, err := v.metadata(ctx, name)
	if err == nil && (!found || len(meta.Versions) == 0) {
		err = fmt.Errorf("%w: %s", secrets.ErrNotFound, name)
	}
	return meta, err
}

// List implements secrets.Vault. It reads no value, but of versions that the state does not know (see Stage).
func (v *Vault) List(ctx context.Context) ([]secrets.Named, error) {
	var all []secrets.Named
	folders := []string{""}
	for len(folders) > 0 {
		folder := folders[0]
		folders = folders[1:]
		keys, err := v.keys(ctx, folder)
		if err != nil {
			return nil, err
		}
		for _, key := range keys {
			if strings.HasSuffix(key, "/") {
				folders = append(folders, folder+key)
				continue
			}
			named, err := v.Versions(ctx, folder+key)
			switch {
			case errors.Is(err, secrets.ErrNotFound): // removed meanwhile, or without a version
			case errors.Is(err, secrets.ErrBadName):
				return nil, v.corrupt(v.path("metadata", "tokens/"+folder+key))
			case err != nil:
				return nil, err
			default:
				all = append(all, named)
			}
		}
	}
	slices.SortFunc(all, func(a, b secrets.Named) int { return cmp.Compare(a.Name, b.Name) })
	return all, nil
}

// keys lists one folder; folders in it end in "/".
func (v *Vault) keys(ctx context.Context, folder string) ([]string, error) {
	if folder != "" && secrets.CheckName(strings.TrimSuffix(folder, "/")) != nil {
		return nil, v.corrupt(v.path("metadata", "tokens/"+folder))
	}
	path := v.path("metadata", "tokens/"+folder)
	a, found, err := v.get(ctx, path, url.Values{"list": {"true"}})
	if err != nil || !found {
		return nil, err
	}
	var reply struct {
		Data struct {
			Keys []string `json:"keys"`
		} `json:"data"`
	}
	if err := json.Unmarshal(a.body, &reply); err != nil {
		return nil, v.corrupt(path)
	}
	return reply.Data.Keys, nil
}

// Versions implements secrets.Vault.
func (v *Vault) Versions(ctx context.Context, name string) (secrets.Named, error) {
	if err := secrets.CheckName(name); err != nil {
		return secrets.Named{}, err
	}
	// The state first: what it calls active exists in metadata that is read after it.
	state, _, err := v.state(ctx, name)
	if err != nil {
		return secrets.Named{}, err
	}
	meta, err := v.existing(ctx, name)
	if err != nil {
		return secrets.Named{}, err
	}
	named := secrets.Named{Name: name}
	for _, kv := range meta.Versions {
		described := describe(kv, state)
		if described.Fingerprint == "" && !kv.gone() {
			data, _, err := v.tokenVersion(ctx, name, kv.Version)
			switch {
			case errors.Is(err, secrets.ErrNotFound), errors.Is(err, secrets.ErrDeleted): // meanwhile
				continue
			case err != nil:
				return secrets.Named{}, err
			}
			described.Fingerprint, described.Binding = data.Fingerprint, data.binding()
		}
		described.Attributes = meta.attributes(kv.Version)
		if state.active(kv) {
			named.Active = kv.Version // even if its value is gone: that is what there is to see
		}
		named.Versions = append(named.Versions, described)
	}
	slices.SortFunc(named.Versions, func(a, b secrets.Version) int { return cmp.Compare(b.Number, a.Number) })
	return named, nil
}

// describe joins what Vault and the state say of a version.
func describe(kv kvVersion, state stateData) secrets.Version {
	described := secrets.Version{Number: kv.Version, State: secrets.Staged, Created: kv.CreatedTime.UTC()}
	if known, ok := state.Versions[kv.Version]; ok && known.Created.Equal(kv.CreatedTime) {
		described.Activated, described.Retiring = known.Activated, known.Retiring
		described.Verified, described.Retired, described.Rejected = known.Verified.At, known.Retired.At, known.Rejected.At
		described.Fingerprint = known.Fingerprint
		described.Binding = secrets.Binding{Instance: known.Instance, Host: known.Host, Environment: known.Environment}
		described.State = secrets.StateOf(described, state.active(kv))
	}
	if kv.gone() {
		described.State = secrets.Deleted
	}
	return described
}

// Read implements secrets.Vault. What it says of the version is what stands with the value, not the copy in the state.
func (v *Vault) Read(ctx context.Context, name string, number int) (secrets.Token, secrets.Version, error) {
	token, version, err := v.read(ctx, name, number)
	if err != nil {
		return secrets.Token{}, secrets.Version{}, err
	}
	return token, version, nil
}

func (v *Vault) read(ctx context.Context, name string, number int) (token secrets.Token, described secrets.Version, err error) {
	if err := secrets.CheckName(name); err != nil {
		return token, described, err
	}
	if number < 0 {
		return token, described, fmt.Errorf("%w: version %d of %s", secrets.ErrNotFound, number, name)
	}
	state, _, err := v.state(ctx, name)
	if err != nil {
		return token, described, err
	}
	active := number == 0
	if active {
		if number = state.Active; number == 0 {
			if _, err := v.existing(ctx, name); err != nil {
				return token, described, err
			}
			return token, described, fmt.Errorf("%w: %s", secrets.ErrNoActive, name)
		}
	}
	data, kv, err := v.tokenVersion(ctx, name, number)
	if err != nil {
		return token, described, err
	}
	if active && !state.active(kv) {
		return token, described, fmt.Errorf("%w: %s (the secret in Vault was removed and made anew since version %d was activated)", secrets.ErrNoActive, name, number)
	}
	if token, err = secrets.NewToken([]byte(data.Token)); err != nil {
		return token, described, fmt.Errorf("%w: version %d of %s: %w", secrets.ErrCorrupt, number, name, err)
	}
	described = describe(kv, state)
	described.Fingerprint, described.Binding = data.Fingerprint, data.binding()
	return token, described, nil
}

// FingerprintKey implements secrets.Vault.
func (v *Vault) FingerprintKey(ctx context.Context) ([]byte, error) {
	v.keyMu.Lock()
	defer v.keyMu.Unlock()
	if v.key != nil {
		return slices.Clone(v.key), nil
	}
	const rest = "fingerprint-key"
	path := v.path("data", rest)
	var lost error
	for try := 1; try <= writeTries; try++ {
		var data struct {
			Format int    `json:"format"`
			Key    []byte `json:"key"`
		}
		version, found, err := v.kvGet(ctx, rest, 0, &data)
		switch {
		case err != nil:
			return nil, unknown(lost, err)
		case found && version.gone():
			return nil, fmt.Errorf("%w: %s; bring it back with vault kv undelete (with another key all fingerprints would change)", secrets.ErrDeleted, path)
		case found && (data.Format != format || len(data.Key) != secrets.FingerprintKeySize):
			return nil, v.corrupt(path)
		case found:
			v.key = data.Key
			return slices.Clone(v.key), nil
		}
		data.Format, data.Key = format, make([]byte, secrets.FingerprintKeySize)
		_, _ = rand.Read(data.Key) // never fails
		// Whoever is first wins; then, and when the answer got lost, the next round reads what there is.
		a, err := v.put(ctx, rest, data, 0)
		if err != nil {
			return nil, unknown(lost, err)
		}
		if !a.ok() && !a.conflict() {
			if a.status == http.StatusForbidden && try == 1 {
				continue // the right to create does not cover what another has just created: read it
			}
			if !a.lost() {
				return nil, v.fault(ctx, a, "create", path)
			}
			if lost = v.fault(ctx, a, "create", path); !pause(ctx, try) {
				return nil, unknown(lost, ctx.Err())
			}
		}
	}
	return nil, unknown(lost, fmt.Errorf("%w: %s could not be written", secrets.ErrUnavailable, path))
}

// put writes a version of a secret by check-and-set; cas 0 means that there must be none.
func (v *Vault) put(ctx context.Context, rest string, data any, cas int) (answer, error) {
	body, err := json.Marshal(map[string]any{"data": data, "options": map[string]int{"cas": cas}})
	if err != nil {
		return answer{}, fmt.Errorf("hashivault: encode %s: %w", rest, err)
	}
	defer clear(body)
	return v.call(ctx, http.MethodPut, v.path("data", rest), nil, body)
}
