package main

import (
	"errors"
	"fmt"
	"testing"

	"github.com/tablexport/tablexport/configs"
	"github.com/tablexport/tablexport/export"
	"github.com/tablexport/tablexport/export/delta"
	"github.com/tablexport/tablexport/jobs"
	"github.com/tablexport/tablexport/odata"
	"github.com/tablexport/tablexport/secrets"
)

// A hint says what is true: that nothing was published only where nothing was, and nothing where the error says it all.
func TestHints(t *testing.T) {
	t.Parallel()
	run := func(err error) error { return &jobs.RunError{Job: "a", RunID: "r", Err: err} }
	unavailable := &odata.UnavailableError{}
	for _, c := range []struct {
		err  error
		code int
		hint string
	}{
		{usagef("wrong"), exitUsage, ""},
		{configs.Problems{{Text: "wrong"}}, exitConfig, ""},
		{errors.New("odd"), exitOther, ""},
		{unavailable, exitUnavailable, "try again later"},
		{run(unavailable), exitUnavailable, "nothing was published, the previous version stands; try again later"},
		{run(&export.SchemaChange{}), exitData, "if the change is meant, run again with --accept-schema"},
		{run(&delta.Unresolved{}), exitUnavailable, "it is not known whether it was published; look with: tablexport datasets show JOB"},
		{run(&jobs.PublishedError{Err: errors.New("disk")}), exitOther, "readers see the new version; look at what failed behind it"},
		{run(fmt.Errorf("x: %w", secrets.ErrNoActive)), exitCredential, "put the token into the vault with: tablexport tokens stage NAME --activate"},
		{&several{errs: []error{run(unavailable), usagef("wrong")}}, exitUnavailable, "nothing was published, the previous version stands; try again later"},
		{&several{errs: []error{usagef("wrong"), run(unavailable)}}, exitUsage, ""},
	} {
		_, code := meaning(c.err)
		if got := hintFor(c.err); got != c.hint || code != c.code {
			t.Errorf("%T: exit %d, hint %q; want %d, %q", c.err, code, got, c.code, c.hint)
		}
	}
}
