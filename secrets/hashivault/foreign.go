package hashivault

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/tablexport/tablexport/secrets"
)

// Foreign reads a field of a secret of the same KV mount that somebody else has put there: a token that is handed over. path is below
// the mount. Nothing is changed; whoever put it there removes it.
func (v *Vault) Foreign(ctx context.Context, path, field string) (secrets.Token, error) {
	if !pathRule.MatchString(path) {
		return secrets.Token{}, fmt.Errorf("%w: %q is no path of a secret; write one such as handover/acme", secrets.ErrSetup, path)
	}
	full := v.opts.Mount + "/data/" + path
	a, found, err := v.get(ctx, full, nil)
	if err != nil {
		return secrets.Token{}, err
	}
	defer clear(a.body)
	var reply struct {
		Data *struct {
			Data map[string]json.RawMessage `json:"data"`
		} `json:"data"`
	}
	if !found || a.status != http.StatusOK || json.Unmarshal(a.body, &reply) != nil || reply.Data == nil {
		return secrets.Token{}, fmt.Errorf("%w: there is no secret at %s", secrets.ErrNotFound, full)
	}
	var value string
	raw, ok := reply.Data.Data[field]
	defer clear(raw)
	if !ok || json.Unmarshal(raw, &value) != nil { // a message of the decoder could quote the value
		return secrets.Token{}, fmt.Errorf("%w: the secret at %s has no text field %q", secrets.ErrNotFound, full, field)
	}
	return secrets.NewToken([]byte(value))
}
