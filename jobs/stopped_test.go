package jobs

import (
	"context"
	"errors"
	"testing"

	"github.com/tablexport/tablexport/export/delta"
	"github.com/tablexport/tablexport/odata"
	"github.com/tablexport/tablexport/odata/scope"
	"github.com/tablexport/tablexport/secrets"
)

// A run that was stopped says so, whatever a library has made of the context's end; what it found before stays what it is.
func TestStopped(t *testing.T) {
	cause := errors.New("enough")
	over, stop := context.WithCancelCause(t.Context())
	stop(cause)
	late, cancel := context.WithTimeout(t.Context(), -1)
	defer cancel()
	for name, tt := range map[string]struct {
		ctx  context.Context
		err  error
		want Class
	}{
		"no error":             {over, nil, Other},
		"the cause":            {over, cause, Canceled},
		"the reason":           {over, context.Canceled, Canceled},
		"a library's own word": {over, errors.New("interrupted (9)"), Canceled},
		"a vault":              {over, secrets.ErrUnavailable, Canceled},
		"an instance":          {over, &odata.UnavailableError{}, Canceled},
		"a foreign row":        {over, &scope.Violation{}, Scope},
		"wrong data":           {over, &odata.DataError{}, Data},
		"the data of a cause":  {over, errors.Join(&odata.DataError{}, cause), Canceled},
		"a commit":             {over, &delta.Unresolved{Err: cause}, Transient},
		"too late":             {late, errors.New("interrupted (9)"), Transient},
		"not stopped":          {t.Context(), secrets.ErrUnavailable, Later},
	} {
		err := stopped(tt.ctx, tt.err)
		if got := Classify(err); got != tt.want || (err == nil) != (tt.err == nil) || tt.err != nil && !errors.Is(err, tt.err) {
			t.Errorf("%s: %s %v, want %s", name, got, err, tt.want)
		}
	}
}
