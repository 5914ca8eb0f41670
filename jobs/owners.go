package jobs

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"slices"
	"sync"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/memory"
	"go.opentelemetry.io/otel/attribute"

	"github.com/tablexport/tablexport/odata"
	"github.com/tablexport/tablexport/odata/edm"
	"github.com/tablexport/tablexport/odata/evidence"
	"github.com/tablexport/tablexport/odata/filter"
	"github.com/tablexport/tablexport/odata/scope"
)

// A scope with `verify: owner` is proven in three steps, the first of them once per run:
//
//	read     the owner tables of the scope, the farthest first: key, reference and the rules' columns of the rows inside it. Each is a scan with
//	         evidence, checked by a scope of its own.
//	test     every row of the table against the keys, where it comes in (Inspect) and where it is written.
//	settle   rows whose owner was not among the keys: a new owner, or a foreign row. They are held aside, and when the scan has ended their
//	         owners are asked for by key, under the same rules. Not before: while a scan is under way it may hold the instance's last
//	         request slot.
//
// What settling finds: the owner is inside now (the row is checked again and written); it exists, outside (a violation); it is gone (the table
// has changed, and the scan is made again, with the owners read anew).
//
// All of it is in memory, so that a crash leaves nothing.

// OwnerPlan is one owner table that a run reads before the table itself.
type OwnerPlan struct {
	*scope.Owner
	Fetch  []string     // the key, then what the rules read
	Scope  *scope.Scope // of its rows; Bind gives it the keys of its own owners
	Owners []*OwnerPlan // the owners of its rows
}

// Query is the query of the owner's scan.
func (o *OwnerPlan) Query() odata.Query {
	return odata.Query{Table: o.Table, Select: o.Fetch, Filter: o.Where}
}

// Text is the query for people: no host, no credential, no paging.
func (o *OwnerPlan) Text() string { return queryText(o.Table, o.Fetch, o.Where) }

// AllOwners returns the owner tables in the order in which they are read.
func (p *Plan) AllOwners() []*OwnerPlan { return inOrder(nil, p.Owners) }

func inOrder(all, owners []*OwnerPlan) []*OwnerPlan {
	for _, o := range owners {
		all = append(inOrder(all, o.Owners), o)
	}
	return all
}

// OwnerKeyLimit is how many owner keys a run of the plan may keep.
func (p *Plan) OwnerKeyLimit() int {
	if p.Job.MaxOwnerKeys > 0 {
		return p.Job.MaxOwnerKeys
	}
	return scope.DefaultMaxOwnerKeys
}

// owners plans the owner tables of rules over table. What is wrong is a problem of the scope's text.
func (b *planner) owners(rules scope.Rules, table *edm.Table) (plans []*OwnerPlan) {
	found, err := rules.Owners(b.model, table)
	if err != nil {
		b.rulesProblems(err)
		return nil
	}
	for _, o := range found {
		before := len(b.problems)
		behind := o.Scope(rules.Name)
		p := &OwnerPlan{Owner: o, Fetch: []string{o.Key.Name}, Owners: b.owners(behind, o.Table)}
		if len(b.problems) > before {
			continue
		}
		for _, name := range behind.Columns() {
			if !slices.Contains(p.Fetch, name) {
				p.Fetch = append(p.Fetch, name)
			}
		}
		schema, err := odata.ArrowSchema(o.Table, p.Fetch)
		if err == nil {
			p.Scope, err = scope.New(behind, schema, p.Fetch[:1])
		}
		if err == nil {
			_, err = new(odata.Session).Scan(p.Query())
		}
		if err != nil {
			b.problem("scope", fmt.Sprintf("scope %s: the owners in %s cannot be read: %v", rules.Name, o.Table.Name, err), "")
			continue
		}
		plans = append(plans, p)
	}
	return plans
}

// OwnerKeys is what a run knows of one owner table.
type OwnerKeys struct {
	Table    string            `json:"table"`
	Column   string            `json:"column"` // that refers to it
	Keys     int               `json:"keys"`   // in scope
	Bytes    int64             `json:"bytes"`  // of memory
	Evidence evidence.Evidence `json:"evidence"`
}

// TooManyOwners says that the owners in scope are more than a run may keep in memory.
type TooManyOwners struct {
	Scope string
	Table string // that was being read
	Limit int
}

// Error implements error.
func (e *TooManyOwners) Error() string {
	return fmt.Sprintf("scope %s has more than %d owners (reached in table %s), which is what may be kept in memory; write a larger max_owner_keys in the scope (%d MB per million), "+
		"narrow its rules, or leave them to the server: no `verify: owner`, and `delegated: true` in the job", e.Scope, e.Limit, e.Table, scope.KeyBytes)
}

// OwnersChanged says that rows could not be proven, because owners came or went while they were read. Another scan may.
type OwnersChanged struct {
	Table  string
	Reason string
}

// Error implements error.
func (e *OwnersChanged) Error() string {
	return fmt.Sprintf("the owners in table %s have changed while rows were read: %s", e.Table, e.Reason)
}

// ownership holds the owners' keys of one run. Windows of a run share it.
type ownership struct {
	mu    sync.Mutex
	known *prover // nil: not read, or no longer of use
}

// prover tests the rows of one table, and knows where their owners are to be asked for.
type prover struct {
	owner  string       // the owner table that the rows are of; "" for the table that is published
	scope  *scope.Scope // bound
	owners map[string]*ownerSet
}

// ownerSet is one owner table with its keys and with what its own rows are tested by.
type ownerSet struct {
	plan *OwnerPlan
	keys *scope.Keys
	own  *prover
}

// prover gives what the plan's rows are tested by; the owners are read at the first call, and again after forget.
func (x *run) prover(ctx context.Context, session *odata.Session) (*prover, error) {
	x.owners.mu.Lock()
	defer x.owners.mu.Unlock()
	if x.owners.known != nil {
		return x.owners.known, nil
	}
	x.result.Owners = nil
	left := x.plan.OwnerKeyLimit()
	p, err := x.readOwners(ctx, session, "", x.plan.Scope, x.plan.Owners, &left)
	if err == nil {
		x.owners.known = p
	}
	return p, err
}

// forget makes the next scan read the owners anew.
func (x *run) forget() {
	x.owners.mu.Lock()
	defer x.owners.mu.Unlock()
	x.owners.known = nil
}

// readOwners reads the owners of a table (owner is its name, or "" for the one that is published) and binds its scope to them. left is how many keys there is room for.
func (x *run) readOwners(ctx context.Context, session *odata.Session, owner string, s *scope.Scope, plans []*OwnerPlan, left *int) (*prover, error) {
	p := &prover{owner: owner, scope: s, owners: make(map[string]*ownerSet, len(plans))}
	if len(plans) == 0 {
		return p, nil
	}
	bind := make(map[string]*scope.Keys, len(plans))
	for _, plan := range plans {
		own, err := x.readOwners(ctx, session, plan.Table.Name, plan.Scope, plan.Owners, left)
		if err != nil {
			return nil, err
		}
		keys, err := x.readKeys(ctx, session, plan, own, left)
		if err != nil {
			return nil, err
		}
		p.owners[plan.Column.Name] = &ownerSet{plan: plan, keys: keys, own: own}
		bind[plan.Column.Name] = keys
	}
	var err error
	p.scope, err = s.Bind(bind)
	return p, err
}

// readKeys scans one owner table.
func (x *run) readKeys(ctx context.Context, session *odata.Session, plan *OwnerPlan, own *prover, left *int) (*scope.Keys, error) {
	keys, err := scope.NewKeys(plan.Table, own.scope)
	if err != nil {
		return nil, err
	}
	q := plan.Query()
	q.Paging, q.PageSize = x.plan.Job.Paging, x.plan.Job.PageSize
	if q.Paging == odata.Key || q.Paging == odata.Offset {
		q.Paging = odata.Auto // as the job's table is paged says nothing about another one
	}
	q.Progress = func(p odata.Progress) { x.progress(Progress{Phase: ReadingOwners, Attempt: 1, Scan: p}) }
	ev, err := x.proven(ctx, session, q, own, func(rows scope.Checked) error {
		if *left -= int(rows.Record().NumRows()); *left < 0 {
			return &TooManyOwners{Scope: x.plan.Job.ScopeName, Table: plan.Table.Name, Limit: x.plan.OwnerKeyLimit()}
		}
		return keys.Add(rows)
	})
	if err != nil {
		return nil, err
	}
	keys.Seal()
	x.result.Owners = append(x.result.Owners, OwnerKeys{Table: plan.Table.Name, Column: plan.Column.Name, Keys: keys.Len(), Bytes: keys.Bytes(), Evidence: ev})
	x.log.Info("owners in scope", "table", plan.Table.Name, "keys", keys.Len(), "bytes", keys.Bytes(), "requests", ev.Requests)
	return keys, nil
}

// proven scans q and hands on what p has proven. The evidence is judged.
func (x *run) proven(ctx context.Context, session *odata.Session, q odata.Query, p *prover, write func(scope.Checked) error) (evidence.Evidence, error) {
	scan, err := x.provenScan(ctx, session, q, p, write)
	if scan == nil {
		return evidence.Evidence{Attempts: q.Attempt}, err
	}
	return scan.Evidence(), err
}

// provenScan is proven for who needs the scan itself; it is nil if it could not be started. What q.Inspect says of a record comes behind what the
// scope says.
func (x *run) provenScan(ctx context.Context, session *odata.Session, q odata.Query, p *prover, write func(scope.Checked) error) (scan *odata.Scan, err error) {
	ctx, end := x.spans.span(ctx, "scan "+q.Table.Name, attribute.Int("tablexport.attempt", q.Attempt), attribute.Int("tablexport.columns", len(q.Select)))
	defer func() {
		if scan == nil {
			end(err)
			return
		}
		ev := scan.Evidence()
		end(err, attribute.Int64("tablexport.rows", ev.Rows), attribute.Int64("tablexport.pages", ev.Pages), attribute.Int64("tablexport.requests", ev.Requests),
			attribute.Int64("tablexport.bytes", ev.Bytes), attribute.String("tablexport.paging", ev.Paging))
	}()
	t := x.newTester(session, p, write)
	defer t.release()
	further := q.Inspect
	q.Inspect = func(rec arrow.Record, before int64) error {
		err := t.inspect(rec, before)
		if err == nil && further != nil {
			err = further(rec, before)
		}
		return err
	}
	if x.LowMemory {
		q.Ahead = -1
	}
	scan, err = session.Scan(q)
	if err != nil {
		return nil, err
	}
	read := int64(0)
	for rec, rerr := range scan.Records(ctx) {
		if err = rerr; err == nil {
			err = t.take(rec, read)
		}
		if err != nil {
			break
		}
		read += rec.NumRows()
	}
	if err = t.settle(ctx, err); err != nil {
		return scan, err
	}
	ev := scan.Evidence()
	return scan, ev.Judge()
}

// The bounds of what is held aside until a scan has ended. A table whose rows get new owners faster than that while it is read is read again, with
// the new ones known.
const (
	mostUnknown   = 2_000    // owner keys
	mostHeldRows  = 100_000  // rows
	mostHeldBytes = 64 << 20 // of records
)

// tester takes the rows of one scan apart: those that are proven are written, those of unknown owners held aside. Its inspect is called from the
// scan's goroutine, the rest from the loop's.
type tester struct {
	x       *run
	session *odata.Session
	p       *prover
	write   func(scope.Checked) error

	mu      sync.Mutex
	unknown map[string]map[string]int64 // by reference column and owner key: the first row of the scan that had it
	n       int

	held      []arrow.Record // of one row each
	heldBytes int64
}

func (x *run) newTester(session *odata.Session, p *prover, write func(scope.Checked) error) *tester {
	return &tester{x: x, session: session, p: p, write: write, unknown: map[string]map[string]int64{}}
}

// errUnknownOwners ends a scan with too many rows of unknown owners.
var errUnknownOwners = errors.New("too many rows have owners that are not known")

// inspect checks rows as they come in, those included that the scan then drops or asks for again: that a server sends
// a foreign row is what must be known, even where the row would not have been written. Owners that are not known are noted.
func (t *tester) inspect(rec arrow.Record, before int64) error {
	checked, err := t.p.scope.Check(rec)
	checked.Release()
	var u *scope.UnknownOwner
	if !errors.As(err, &u) {
		return t.at(err, before)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, u := range t.p.scope.Unknown(rec) {
		of := t.unknown[u.Column]
		if of == nil {
			of = map[string]int64{}
			t.unknown[u.Column] = of
		}
		if _, noted := of[u.Key]; !noted {
			of[u.Key] = before + int64(u.Row)
			t.n++
		}
	}
	if t.n > mostUnknown {
		return errUnknownOwners
	}
	return nil
}

// take checks one record and writes it; read is how many rows came before it. Rows of unknown owners are held aside.
func (t *tester) take(rec arrow.Record, read int64) error {
	err := t.pass(rec, read)
	var u *scope.UnknownOwner
	if !errors.As(err, &u) {
		return err
	}
	from := int64(0)
	for _, u := range t.p.scope.Unknown(rec) {
		at := int64(u.Row)
		if at < from {
			continue // the row fails by another reference, too
		}
		if err := t.part(rec, from, at, read); err != nil {
			return err
		}
		if err := t.hold(rec, at); err != nil {
			return err
		}
		from = at + 1
	}
	return t.part(rec, from, rec.NumRows(), read)
}

// part checks and writes the rows from ≤ row < to of a record.
func (t *tester) part(rec arrow.Record, from, to, read int64) error {
	if from == to {
		return nil
	}
	rows := rec.NewSlice(from, to)
	defer rows.Release()
	return t.pass(rows, read+from)
}

func (t *tester) pass(rec arrow.Record, read int64) error {
	checked, err := t.p.scope.Check(rec)
	if err != nil {
		return t.at(err, read)
	}
	defer checked.Release()
	return t.write(checked)
}

// hold keeps a copy of a row: a slice would hold on to the record that it came in.
func (t *tester) hold(rec arrow.Record, row int64) error {
	columns := make([]arrow.Array, rec.NumCols())
	for i, c := range rec.Columns() {
		slice := array.NewSlice(c, row, row+1)
		one, err := array.Concatenate([]arrow.Array{slice}, memory.DefaultAllocator)
		slice.Release()
		if err != nil {
			return err
		}
		defer one.Release()
		columns[i] = one
		for _, b := range one.Data().Buffers() {
			if b != nil {
				t.heldBytes += int64(b.Cap())
			}
		}
	}
	t.held = append(t.held, array.NewRecord(rec.Schema(), columns, 1))
	if len(t.held) > mostHeldRows || t.heldBytes > mostHeldBytes {
		return errUnknownOwners
	}
	return nil
}

func (t *tester) release() {
	for _, rec := range t.held {
		rec.Release()
	}
	t.held = nil
}

// at places a violation in the scan and in its table.
func (t *tester) at(err error, before int64) error {
	var v *scope.Violation
	if errors.As(err, &v) {
		v.Row += before
		v.Table = t.p.owner
	}
	return err
}

// settle is called when the scan has ended, with how it ended. It asks for the owners that were not known, and then writes the rows that were
// held aside. That a row was foreign is said before anything else that went wrong.
func (t *tester) settle(ctx context.Context, ended error) error {
	t.mu.Lock()
	unknown := t.unknown
	t.mu.Unlock()
	if len(unknown) == 0 || as[*scope.Violation](ended) {
		return ended
	}
	for _, column := range slices.Sorted(maps.Keys(unknown)) {
		if err := t.ask(ctx, t.p.owners[column], unknown[column]); err != nil {
			if ended != nil && !errors.Is(ended, errUnknownOwners) && !as[*scope.Violation](err) {
				return ended // what could not be asked behind it does not explain it
			}
			return err
		}
	}
	if errors.Is(ended, errUnknownOwners) {
		t.x.forget()
		return &OwnersChanged{Table: t.owner(), Reason: "too many new ones have come"}
	}
	if ended != nil {
		return ended
	}
	for _, rec := range t.held {
		if err := t.pass(rec, 0); err != nil {
			return err
		}
	}
	return nil
}

// owner names an owner table, for messages.
func (t *tester) owner() string {
	for _, column := range slices.Sorted(maps.Keys(t.unknown)) {
		return t.p.owners[column].plan.Table.Name
	}
	return ""
}

// ask asks for owners by their keys, under the scope's rules, and adds those that are inside. One that is not inside is a violation, unless it is no
// longer there.
func (t *tester) ask(ctx context.Context, set *ownerSet, keys map[string]int64) error {
	wanted := slices.Sorted(maps.Keys(keys))
	inside := map[string]bool{}
	for chunk, err := range chunks(set.plan, wanted) {
		if err != nil {
			return err
		}
		q := set.plan.Query()
		q.Filter = filter.And(q.Filter, chunk)
		_, err = t.x.proven(ctx, t.session, q, set.own, func(rows scope.Checked) error {
			for i := range int(rows.Record().NumRows()) {
				inside[scope.KeyText(rows.Record().Column(0), i)] = true
			}
			return set.keys.Add(rows)
		})
		if err != nil {
			return err
		}
	}
	var outside []string
	for _, key := range wanted {
		if !inside[key] {
			outside = append(outside, key)
		}
	}
	t.x.log.Info("owners that came late", "table", set.plan.Table.Name, "asked", len(wanted), "inside", len(inside))
	if len(outside) == 0 {
		return nil
	}
	return t.outside(ctx, set, outside, keys)
}

// outside tells owners outside of the scope from those that are gone. It asks for keys that rows have brought, and reads nothing but these keys.
func (t *tester) outside(ctx context.Context, set *ownerSet, keys []string, rows map[string]int64) error {
	first := int64(-1)
	for chunk, err := range chunks(set.plan, keys) {
		if err != nil {
			return err
		}
		scan, err := t.session.Scan(odata.Query{Table: set.plan.Table, Select: set.plan.Fetch[:1], Filter: chunk})
		if err != nil {
			return err
		}
		for rec, err := range scan.Records(ctx) {
			if err != nil {
				return err
			}
			for i := range int(rec.NumRows()) {
				row, asked := rows[scope.KeyText(rec.Column(0), i)]
				if asked && (first < 0 || row < first) {
					first = row
				}
			}
		}
	}
	if first >= 0 {
		return t.at(t.p.scope.Outside(set.plan.Column.Name, first), 0)
	}
	t.x.forget()
	return &OwnersChanged{Table: set.plan.Table.Name, Reason: fmt.Sprintf("%d of them, which rows refer to, are not there any more", len(keys))}
}

// chunkText is how long the list of keys in one request may be when it is encoded: together with the rest it mostly stays below the 2,048 bytes
// that some servers allow a query.
const chunkText = 1_200

// chunks gives conditions on the owner's key that cover keys.
func chunks(plan *OwnerPlan, keys []string) iter.Seq2[filter.Bound, error] {
	return filter.KeyChunks(plan.Table, plan.Key.Name, keys, chunkText)
}

// newSampleTester tests a few rows of a plan, outside of a run. It does not read the owner tables: it knows no owner, so that settle asks for those of the
// rows that came, by their keys.
func newSampleTester(plan *Plan, session *odata.Session) (*tester, error) {
	x := &run{Runner: &Runner{}, plan: plan, log: slog.New(slog.DiscardHandler), spans: newSpans(nil)}
	p, err := knowsNobody("", plan.Scope, plan.Owners)
	if err != nil {
		return nil, err
	}
	return x.newTester(session, p, func(scope.Checked) error { return nil }), nil
}

// knowsNobody is a prover whose key sets are empty.
func knowsNobody(owner string, s *scope.Scope, plans []*OwnerPlan) (*prover, error) {
	p := &prover{owner: owner, scope: s, owners: make(map[string]*ownerSet, len(plans))}
	bind := make(map[string]*scope.Keys, len(plans))
	for _, plan := range plans {
		own, err := knowsNobody(plan.Table.Name, plan.Scope, plan.Owners)
		if err != nil {
			return nil, err
		}
		keys, err := scope.NewKeys(plan.Table, own.scope)
		if err != nil {
			return nil, err
		}
		keys.Seal()
		p.owners[plan.Column.Name], bind[plan.Column.Name] = &ownerSet{plan: plan, keys: keys, own: own}, keys
	}
	var err error
	p.scope, err = s.Bind(bind)
	return p, err
}
