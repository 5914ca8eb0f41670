package jobs_test

import (
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/tablexport/tablexport/export"
	"github.com/tablexport/tablexport/export/delta"
	"github.com/tablexport/tablexport/export/lease"
	"github.com/tablexport/tablexport/export/parquet"
	"github.com/tablexport/tablexport/export/sets"
	"github.com/tablexport/tablexport/export/store"
	"github.com/tablexport/tablexport/jobs"
	"github.com/tablexport/tablexport/jobs/gate"
	"github.com/tablexport/tablexport/jobs/ledger"
	"github.com/tablexport/tablexport/jobs/status"
	"github.com/tablexport/tablexport/odata"
	"github.com/tablexport/tablexport/odata/edm"
	"github.com/tablexport/tablexport/odata/evidence"
	"github.com/tablexport/tablexport/odata/extsort"
	"github.com/tablexport/tablexport/odata/filter"
	"github.com/tablexport/tablexport/odata/scope"
	"github.com/tablexport/tablexport/secrets"
	"github.com/tablexport/tablexport/secrets/audit"
)

// meanings has a line for every exported error of the module's packages, by package and name; what stands behind a
// slash tells cases of one type apart.
func meanings() map[string]struct {
	err  error
	want jobs.Class
} {
	bucket := func(c store.Code) error {
		return &store.Error{Code: c, Op: "put", Key: "k", Err: errors.New("said the driver")}
	}
	answered := func(n int) error { return &odata.StatusError{Status: n} }
	incomplete := &evidence.Incomplete{Reason: "r"}
	return map[string]struct {
		err  error
		want jobs.Class
	}{
		"odata.ErrForbidden":                 {odata.ErrForbidden, jobs.Credential},
		"odata.ErrTruncated":                 {odata.ErrTruncated, jobs.Transient},
		"odata.StatusError/500":              {answered(500), jobs.Transient},
		"odata.StatusError/599":              {answered(599), jobs.Transient},
		"odata.StatusError/429":              {answered(429), jobs.Later},
		"odata.StatusError/403":              {answered(403), jobs.Credential},
		"odata.StatusError/404":              {answered(404), jobs.Config},
		"odata.StatusError/400":              {answered(400), jobs.Config},
		"odata.StatusError/301":              {answered(301), jobs.Config},
		"odata.CredentialError":              {&odata.CredentialError{}, jobs.Credential},
		"odata.CredentialError/no newer":     {&odata.CredentialError{Err: fmt.Errorf("%w: x", secrets.ErrNoNewer)}, jobs.Credential},
		"odata.CredentialError/vault away":   {&odata.CredentialError{Err: fmt.Errorf("%w: x", secrets.ErrUnavailable)}, jobs.Later},
		"odata.CredentialError/no audit":     {&odata.CredentialError{Err: fmt.Errorf("%w: x", secrets.ErrAudit)}, jobs.Later},
		"odata.CredentialError/stopped":      {&odata.CredentialError{Err: context.Canceled}, jobs.Canceled},
		"odata.AuthenticationPageError":      {&odata.AuthenticationPageError{}, jobs.Credential},
		"odata.UnavailableError":             {&odata.UnavailableError{}, jobs.Later},
		"odata.UnavailableError/500":         {&odata.UnavailableError{Err: answered(500)}, jobs.Later},
		"odata.UnavailableError/cut":         {&odata.UnavailableError{Err: odata.ErrTruncated}, jobs.Later},
		"odata.ProtocolError":                {&odata.ProtocolError{}, jobs.Data},
		"odata.ProtocolError/damaged":        {&odata.ProtocolError{Err: &odata.MalformedError{}}, jobs.Data},
		"odata.RescanError":                  {&odata.RescanError{}, jobs.Data},
		"odata.RescanError/retry":            {&odata.RescanError{Retry: true, Err: incomplete}, jobs.Data},
		"odata.RescanError/unavailable":      {&odata.RescanError{Err: &odata.UnavailableError{}}, jobs.Later},
		"odata.AddressError":                 {&odata.AddressError{}, jobs.Config},
		"odata.MalformedError":               {&odata.MalformedError{}, jobs.Transient},
		"odata.DataError":                    {&odata.DataError{}, jobs.Data},
		"odata.InStreamError":                {&odata.InStreamError{}, jobs.Transient},
		"edm.PathError":                      {&edm.PathError{}, jobs.Config},
		"edm.CSDLError":                      {&edm.CSDLError{}, jobs.Data},
		"edm.CSDLError/of an instance":       {&odata.ProtocolError{Err: &edm.CSDLError{}}, jobs.Data},
		"filter.Problem":                     {&filter.Problem{}, jobs.Config},
		"filter.Problems":                    {filter.Problems{{}, {}}, jobs.Config},
		"scope.RulesError":                   {&scope.RulesError{}, jobs.Config},
		"scope.Violation":                    {&scope.Violation{}, jobs.Scope},
		"scope.Violation/not audited":        {errors.Join(&scope.Violation{}, secrets.ErrAudit), jobs.Scope},
		"scope.ErrSchema":                    {scope.ErrSchema, jobs.Bug},
		"evidence.Incomplete":                {incomplete, jobs.Data},
		"ledger.ErrFenced":                   {ledger.ErrFenced, jobs.Conflict},
		"ledger.HeldError":                   {&ledger.HeldError{}, jobs.Conflict},
		"lease.HeldError":                    {&lease.HeldError{}, jobs.Conflict},
		"lease.LostError":                    {errors.Join(&lease.LostError{}, context.Canceled), jobs.Conflict},
		"export.Fenced":                      {&export.Fenced{}, jobs.Conflict},
		"jobs.ErrNoJob":                      {jobs.ErrNoJob, jobs.Config},
		"jobs.ErrUnderWay":                   {jobs.ErrUnderWay, jobs.Conflict},
		"export.ErrRefused":                  {export.ErrRefused, jobs.Bug},
		"export.ErrEnded":                    {export.ErrEnded, jobs.Bug},
		"export.OtherJob":                    {&export.OtherJob{}, jobs.Config},
		"export.ErrNotKey":                   {export.ErrNotKey, jobs.Config},
		"export.RowMismatch":                 {&export.RowMismatch{}, jobs.Data},
		"export.SchemaChange":                {&export.SchemaChange{}, jobs.Data},
		"export.QuarantineLimit":             {&export.QuarantineLimit{}, jobs.Data},
		"odata.AsideLimitError":              {&odata.AsideLimitError{}, jobs.Data},
		"export.FilesGone":                   {&export.FilesGone{}, jobs.Config},
		"export.NotMergeable":                {&export.NotMergeable{}, jobs.Data},
		"export.MergeMismatch":               {&export.MergeMismatch{}, jobs.Data},
		"extsort.RepeatedKeyError":           {&extsort.RepeatedKeyError{}, jobs.Data},
		"scope.ErrOwners":                    {scope.ErrOwners, jobs.Bug},
		"scope.UnknownOwner":                 {&scope.UnknownOwner{}, jobs.Scope},
		"sets.Dangling":                      {&sets.Dangling{}, jobs.Data},
		"sets.Gone":                          {&sets.Gone{}, jobs.Config},
		"sets.ErrNone":                       {sets.ErrNone, jobs.Config},
		"sets.Conflict":                      {&sets.Conflict{}, jobs.Conflict},
		"sets.Unresolved":                    {&sets.Unresolved{Err: context.Canceled}, jobs.Transient},
		"sets.Corrupt":                       {&sets.Corrupt{Err: errors.New("x")}, jobs.Data},
		"jobs.BackfillError":                 {&jobs.BackfillError{}, jobs.Config},
		"jobs.BoundsError":                   {&jobs.BoundsError{Err: answered(400)}, jobs.Config},
		"jobs.ErrSameVersion":                {jobs.ErrSameVersion, jobs.Config},
		"jobs.OwnersChanged":                 {&jobs.OwnersChanged{}, jobs.Data},
		"jobs.SetError":                      {&jobs.SetError{Err: &sets.Dangling{}}, jobs.Data},
		"jobs.TooManyOwners":                 {&jobs.TooManyOwners{}, jobs.Config},
		"jobs.OutsideWindow":                 {&jobs.OutsideWindow{}, jobs.Data},
		"jobs.MovedError":                    {&jobs.MovedError{}, jobs.Data},
		"jobs.GapError":                      {&jobs.GapError{}, jobs.Data},
		"jobs.WindowError":                   {&jobs.WindowError{Err: &delta.Conflict{}}, jobs.Conflict},
		"jobs.WindowsError":                  {&jobs.WindowsError{Failed: []error{&odata.UnavailableError{}}}, jobs.Later},
		"delta.ErrNoVersion":                 {delta.ErrNoVersion, jobs.Config},
		"delta.ErrInvalid":                   {delta.ErrInvalid, jobs.Bug},
		"delta.Corrupt":                      {&delta.Corrupt{Err: errors.New("x")}, jobs.Data},
		"delta.Unsupported":                  {&delta.Unsupported{}, jobs.Data},
		"delta.Conflict":                     {&delta.Conflict{}, jobs.Conflict},
		"delta.Unresolved":                   {&delta.Unresolved{Err: errors.New("x")}, jobs.Transient},
		"delta.Unresolved/stopped":           {&delta.Unresolved{Err: context.Canceled}, jobs.Transient},
		"delta.Unresolved/denied":            {&delta.Unresolved{Err: bucket(store.Permission)}, jobs.Transient},
		"parquet.ErrClosed":                  {parquet.ErrClosed, jobs.Bug},
		"parquet.ErrNull":                    {parquet.ErrNull, jobs.Data},
		"parquet.ErrRange":                   {parquet.ErrRange, jobs.Data},
		"parquet.ErrText":                    {parquet.ErrText, jobs.Data},
		"parquet.CellError":                  {&parquet.CellError{Err: parquet.ErrNull}, jobs.Data},
		"store.Error/unknown":                {bucket(store.Unknown), jobs.Other},
		"store.Error/not found":              {bucket(store.NotFound), jobs.Transient},
		"store.Error/already exists":         {bucket(store.AlreadyExists), jobs.Conflict},
		"store.Error/permission denied":      {bucket(store.Permission), jobs.Credential},
		"store.Error/unavailable":            {bucket(store.Unavailable), jobs.Transient},
		"store.Error/invalid":                {bucket(store.Invalid), jobs.Config},
		"store.Error/canceled":               {bucket(store.Canceled), jobs.Canceled},
		"store.Error/canceled by a deadline": {&store.Error{Code: store.Canceled, Err: context.DeadlineExceeded}, jobs.Transient},
		"store.Error/full":                   {bucket(store.Full), jobs.Later},
		"store.Error/refused":                {bucket(store.Refused), jobs.Config},
		"secrets.ErrNotFound":                {secrets.ErrNotFound, jobs.Credential},
		"secrets.ErrNoActive":                {secrets.ErrNoActive, jobs.Credential},
		"secrets.ErrDeleted":                 {secrets.ErrDeleted, jobs.Credential},
		"secrets.ErrConflict":                {secrets.ErrConflict, jobs.Conflict},
		"secrets.ErrHistory":                 {secrets.ErrHistory, jobs.Config},
		"secrets.ErrUnavailable":             {secrets.ErrUnavailable, jobs.Later},
		"secrets.ErrUnavailable/stopped":     {fmt.Errorf("%w: %w", secrets.ErrUnavailable, context.Canceled), jobs.Canceled},
		"secrets.ErrPermission":              {secrets.ErrPermission, jobs.Credential},
		"secrets.ErrSetup":                   {secrets.ErrSetup, jobs.Config},
		"secrets.ErrCorrupt":                 {secrets.ErrCorrupt, jobs.Data},
		"secrets.ErrUnknown":                 {secrets.ErrUnknown, jobs.Later},
		"secrets.ErrPolicy":                  {secrets.ErrPolicy, jobs.Credential},
		"secrets.PolicyError":                {&secrets.PolicyError{}, jobs.Credential},
		// Answers of serve to whoever asks it: they end no run and no command.
		"gate.ErrUnavailable":                   {gate.ErrUnavailable, jobs.Other},
		"status.ErrUnknown":                     {status.ErrUnknown, jobs.Other},
		"status.ErrBusy":                        {status.ErrBusy, jobs.Other},
		"secrets.ErrBadName":                    {secrets.ErrBadName, jobs.Config},
		"secrets.ErrBadAttributes":              {secrets.ErrBadAttributes, jobs.Config},
		"secrets.ErrBadToken":                   {secrets.ErrBadToken, jobs.Credential},
		"secrets.ErrBinding":                    {secrets.ErrBinding, jobs.Credential},
		"secrets.ErrNoNewer":                    {secrets.ErrNoNewer, jobs.Credential},
		"secrets.ErrClosed":                     {secrets.ErrClosed, jobs.Bug},
		"secrets.ErrAudit":                      {secrets.ErrAudit, jobs.Later},
		"secrets.ErrAudit/beside its cause":     {errors.Join(secrets.ErrNoActive, secrets.ErrAudit), jobs.Credential},
		"secrets.ErrAudit/beside a conflict":    {errors.Join(&delta.Conflict{}, fmt.Errorf("%w: %w", secrets.ErrAudit, syscall.EACCES)), jobs.Conflict},
		"secrets.ErrAudit/damaged":              {fmt.Errorf("%w: %w", secrets.ErrAudit, audit.ErrDamaged), jobs.Config},
		"secrets.BindingError":                  {&secrets.BindingError{}, jobs.Credential},
		"audit.ErrClosed":                       {audit.ErrClosed, jobs.Bug},
		"secrets.ErrInUse":                      {secrets.ErrInUse, jobs.Later},
		"secrets.ErrClient":                     {secrets.ErrClient, jobs.Credential},
		"secrets.ErrScopes":                     {secrets.ErrScopes, jobs.Credential},
		"secrets.ErrState":                      {secrets.ErrState, jobs.Conflict},
		"audit.ErrKey":                          {audit.ErrKey, jobs.Config},
		"audit.ErrForked":                       {audit.ErrForked, jobs.Data},
		"audit.ErrDamaged":                      {audit.ErrDamaged, jobs.Config},
		"ledger.ErrNotFound":                    {ledger.ErrNotFound, jobs.Config},
		"ledger.ErrAccess":                      {ledger.ErrAccess, jobs.Config},
		"ledger.ErrFull":                        {ledger.ErrFull, jobs.Later},
		"ledger.ErrDisk":                        {ledger.ErrDisk, jobs.Later},
		"ledger.ErrBusy":                        {ledger.ErrBusy, jobs.Later},
		"ledger.ErrCorrupt":                     {ledger.ErrCorrupt, jobs.Other},
		"jobs.RunError":                         {&jobs.RunError{Err: &odata.DataError{}}, jobs.Data},
		"jobs.PlanError":                        {&jobs.PlanError{}, jobs.Config},
		"jobs.PanicError":                       {&jobs.PanicError{}, jobs.Bug},
		"jobs.PublishedError":                   {&jobs.PublishedError{Err: secrets.ErrAudit}, jobs.Other},
		"jobs.PublishedError/panic":             {&jobs.PublishedError{Err: &jobs.PanicError{}}, jobs.Bug},
		"jobs.StoppedError":                     {&jobs.StoppedError{Reason: context.Canceled, Err: &odata.RescanError{}}, jobs.Canceled},
		"jobs.StoppedError/deadline":            {&jobs.StoppedError{Reason: context.DeadlineExceeded, Err: errors.New("x")}, jobs.Transient},
		"/context.Canceled":                     {context.Canceled, jobs.Canceled},
		"/context.DeadlineExceeded":             {context.DeadlineExceeded, jobs.Transient},
		"/connection refused":                   {&net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}, jobs.Transient},
		"/no such host":                         {&net.DNSError{}, jobs.Transient},
		"/a file that may not be written":       {&fs.PathError{Op: "open", Err: syscall.EACCES}, jobs.Config},
		"/a file system that is full":           {&fs.PathError{Op: "write", Err: syscall.ENOSPC}, jobs.Later},
		"/a file error like any other":          {&fs.PathError{Op: "read", Err: syscall.EIO}, jobs.Other},
		"/an error like any other":              {errors.New("x"), jobs.Other},
		"/a scope violation beside a Ctrl-C":    {errors.Join(context.Canceled, &scope.Violation{}), jobs.Scope},
		"/an unproven scan of a dead server":    {&odata.RescanError{Err: &odata.UnavailableError{Err: incomplete}}, jobs.Later},
		"/a data error and a failing audit log": {errors.Join(&odata.DataError{}, secrets.ErrAudit), jobs.Data},
	}
}

func TestClassify(t *testing.T) {
	for name, tt := range meanings() {
		for how, err := range map[string]error{
			"as it is": tt.err, "placed": &jobs.RunError{Job: "j", RunID: "r", Err: tt.err}, "wrapped": fmt.Errorf("while at it: %w", tt.err),
			"joined": &jobs.RunError{Err: errors.Join(errors.New("one more thing"), tt.err)},
		} {
			if got := jobs.Classify(err); got != tt.want {
				t.Errorf("%s, %s: %s, want %s", name, how, got, tt.want)
			}
		}
	}
	if got := jobs.Classify(nil); got != jobs.Other {
		t.Errorf("nil: %s", got)
	}
}

// No error of the module is without a meaning: a new one must be put into the table.
func TestEveryErrorHasAMeaning(t *testing.T) {
	known := map[string]bool{}
	for name := range meanings() {
		name, _, _ = strings.Cut(name, "/")
		known[name] = true
	}
	found := 0
	for _, top := range []string{"odata", "export", "secrets", "jobs"} {
		err := filepath.WalkDir(filepath.Join("..", top), func(path string, d os.DirEntry, err error) error {
			if err != nil {
				return err
			}
			if d.IsDir() {
				switch d.Name() {
				case "simulator", "storetest", "secretstest", "exporttest", "testdata": // not part of the program
					return filepath.SkipDir
				}
				return nil
			}
			if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return nil
			}
			for _, name := range errorsOf(t, path) {
				found++
				if !known[name] {
					t.Errorf("%s (%s) has no line in the table of TestClassify: say what it means in jobs/classify.go", name, path)
				}
			}
			return nil
		})
		must(t, err)
	}
	if found < 50 {
		t.Errorf("only %d errors found", found)
	}
}

// errorsOf names the exported sentinels and error types of a file.
func errorsOf(t *testing.T, path string) (names []string) {
	f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
	must(t, err)
	add := func(name string) {
		if ast.IsExported(name) {
			names = append(names, f.Name.Name+"."+name)
		}
	}
	for _, decl := range f.Decls {
		switch decl := decl.(type) {
		case *ast.FuncDecl:
			if decl.Name.Name != "Error" || decl.Recv == nil || len(decl.Type.Params.List) > 0 {
				continue
			}
			of := decl.Recv.List[0].Type
			if star, ok := of.(*ast.StarExpr); ok {
				of = star.X
			}
			if name, ok := of.(*ast.Ident); ok {
				add(name.Name)
			}
		case *ast.GenDecl:
			if decl.Tok != token.VAR {
				continue
			}
			for _, spec := range decl.Specs {
				for _, name := range spec.(*ast.ValueSpec).Names {
					if strings.HasPrefix(name.Name, "Err") {
						add(name.Name)
					}
				}
			}
		}
	}
	return names
}
