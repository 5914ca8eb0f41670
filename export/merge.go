package export

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"

	"github.com/tablexport/tablexport/export/delta"
	"github.com/tablexport/tablexport/odata/evidence"
	"github.com/tablexport/tablexport/odata/extsort"
	"github.com/tablexport/tablexport/odata/scope"
)

// DefaultMergeBytes is the file size to choose as [Spec].FileBytes for a dataset that is merged into: 32 MiB. A row that changes costs
// the copy of its file.
const DefaultMergeBytes = 32 << 20

// A file below a quarter of FileBytes is small. Small files are copied into fewer ones when there are so many of them.
const (
	smallPart = 4
	foldAt    = 8
)

// Merge is one commit to be that drops some rows of a dataset and adds others: the files that hold a dropped row are copied without it,
// other files stay as they are. It is for datasets that are not partitioned, and not safe for concurrent use.
//
//	Dataset.Merge ─► Rows, Drop, Write, in any order ─► Done ─► Refresh().Commit
//
// Rows that are copied were checked by the dataset's scope when they were read, so they are copied only if scope, columns and query are
// what they were: see [NotMergeable].
type Merge struct {
	r      *Refresh
	fresh  *Slice // rows that are written anew
	copied *Slice // rows of the dataset's own files
	rows   []int64
	before int64
	drops  *extsort.Sorter // of positions
	remove map[string]bool // paths of the files that are replaced
	info   MergeInfo
}

// MergeInfo is what a merge did, as it stands in the dataset's history.
type MergeInfo struct {
	Before    int64           `json:"before"`             // rows of the version that it builds on
	Dropped   int64           `json:"dropped"`            // of these, rows that were replaced or deleted
	Written   int64           `json:"written"`            // rows that were read anew
	After     int64           `json:"after"`              // rows of the version that it makes: before − dropped + written
	Copied    int64           `json:"copied"`             // rows that had to be copied, because they shared a file with a dropped one
	Deleted   int64           `json:"deleted"`            // dropped rows that are gone
	Partial   bool            `json:"partial,omitempty"`  // rows that are gone were not looked for
	Watermark time.Time       `json:"watermark,omitzero"` // of a watermark refresh: when this one began
	Fetch     *evidence.Fetch `json:"fetch,omitempty"`    // how the written rows were read
}

// NotMergeable says why a merge cannot build on a dataset, so that the table must be read whole.
type NotMergeable struct {
	Reason string
}

// Error implements error.
func (e *NotMergeable) Error() string { return "export: the table must be read whole: " + e.Reason }

// MergeMismatch is the error of Done, and of the commit, when the rows do not add up: nothing was published.
type MergeMismatch struct {
	What       string
	Want, Have int64
}

// Error implements error.
func (e *MergeMismatch) Error() string {
	return fmt.Sprintf("export: %s: %d rows, where it must be %d: nothing was published", e.What, e.Have, e.Want)
}

// Merge begins a merge into the newest version. The errors are those of Begin, and *NotMergeable. Close it on every way out.
func (d *Dataset) Merge(ctx context.Context, spec Spec) (*Merge, error) {
	r, err := d.Begin(ctx, spec)
	if err != nil {
		return nil, err
	}
	m := &Merge{r: r, drops: extsort.New(extsort.Options{}), remove: map[string]bool{}}
	if r.repeated == nil {
		if reason := m.unmergeable(); reason != "" {
			return nil, &NotMergeable{Reason: reason}
		}
	}
	if m.fresh, err = r.Slice(SliceSpec{}); err != nil {
		return nil, err
	}
	m.copied = &Slice{r: r, spec: m.fresh.spec, attempt: m.fresh.attempt, first: copiedParts}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.slices, r.merge = append(r.slices, m.copied), m
	return m, nil
}

// copiedParts is the number of the first part of copied rows: both slices share one attempt, so that the sweeper sees them as one.
const copiedParts = 50_000

// unmergeable is why the table must be read whole; "" if it need not.
func (m *Merge) unmergeable() string {
	base, spec := m.r.base, &m.r.spec
	switch {
	case base.Version < 0:
		return "nothing has been published yet"
	case len(base.Metadata.PartitionColumns) > 0:
		return "it was refreshed by period before"
	case len(m.r.plan.diff) > 0:
		return "columns, job or scope are not what they were: " + m.r.plan.diff[0]
	case spec.QueryID == "":
		return "the query has no fingerprint"
	}
	for _, f := range base.Files {
		if f.Tags[tagQuery] != spec.QueryID {
			return "files of the dataset were written by another query, or by another engine"
		}
		st, err := delta.ParseStats(f.Stats)
		if err != nil {
			return "the log does not say how many rows a file has"
		}
		m.rows, m.before = append(m.rows, st.NumRecords), m.before+st.NumRecords
	}
	return ""
}

// Refresh is what commits or aborts the merge.
func (m *Merge) Refresh() *Refresh { return m.r }

// Before is the number of rows of the version that the merge builds on.
func (m *Merge) Before() int64 { return m.before }

// Close drops what was staged, unless it was published, and frees what the merge holds.
func (m *Merge) Close(ctx context.Context) error {
	m.drops.Close()
	return m.r.Abort(ctx)
}

// Located is rows of the dataset and where they lie.
type Located struct {
	Record arrow.Record // valid until the next one is asked for
	file   int
	first  int64
}

// Position is where a row lies in the version that a merge builds on.
type Position [12]byte

// At is where a row of the record lies.
func (l Located) At(row int) (p Position) {
	binary.BigEndian.PutUint32(p[:4], uint32(l.file))
	binary.BigEndian.PutUint64(p[4:], uint64(l.first+int64(row)))
	return p
}

func (p Position) file() int  { return int(binary.BigEndian.Uint32(p[:4])) }
func (p Position) row() int64 { return int64(binary.BigEndian.Uint64(p[4:])) }

// Rows yields the chosen columns of all rows of the version that the merge builds on. A file with another number of rows than the log says
// is an error.
func (m *Merge) Rows(ctx context.Context, columns []string) iter.Seq2[Located, error] {
	return func(yield func(Located, error) bool) {
		if m.r.repeated != nil {
			return
		}
		for i, f := range m.r.base.Files {
			at := Located{file: i}
			for rec, err := range m.r.d.Records(ctx, m.r.base, f, columns, 0) {
				if err != nil {
					yield(Located{}, err)
					return
				}
				at.Record = rec
				if !yield(at, nil) {
					return
				}
				at.first += rec.NumRows()
			}
			if at.first != m.rows[i] {
				yield(Located{}, &MergeMismatch{What: "the file " + f.Path + " of the dataset", Want: m.rows[i], Have: at.first})
				return
			}
		}
	}
}

// Drop takes a row out: it is gone, or written anew.
func (m *Merge) Drop(p Position) error {
	m.info.Dropped++
	return m.drops.Add(p[:], nil)
}

// Write adds rows; see [Slice.Write].
func (m *Merge) Write(ctx context.Context, rows scope.Checked) error { return m.fresh.Write(ctx, rows) }

// MergeProof is what a merge is held against before it is published.
type MergeProof struct {
	Sweep     evidence.Evidence // of the keys
	Fetch     evidence.Fetch    // of the rows that were written
	Rows      int64             // that the dataset must have afterwards; -1 = not known
	Deleted   int64             // dropped rows that were not there any more, for the history
	Watermark time.Time         // for the history
}

// Done judges the evidence, copies what must be copied, and sees that the rows add up: what was written is what was fetched, each file
// has lost exactly the dropped rows, and the whole has as many rows as it must. The errors are *evidence.Incomplete, *RowMismatch,
// *MergeMismatch and store errors.
func (m *Merge) Done(ctx context.Context, p MergeProof) error {
	if m.r.repeated != nil {
		m.fresh.done, m.copied.done = true, true
		return nil
	}
	if err := p.Sweep.Judge(); err != nil {
		return err
	}
	if err := p.Fetch.Judge(); err != nil {
		return err
	}
	if p.Fetch.Found != m.fresh.rows {
		return &RowMismatch{Evidence: p.Fetch.Found, Written: m.fresh.rows}
	}
	if err := m.fresh.close(ctx); err != nil {
		return err
	}
	if err := m.copy(ctx); err != nil {
		return err
	}
	after, want := m.after(), m.before-m.info.Dropped+m.fresh.rows
	if after != want {
		return &MergeMismatch{What: "the files of the new version", Want: want, Have: after}
	}
	if p.Rows >= 0 && after != p.Rows {
		return &MergeMismatch{What: "the new version", Want: p.Rows, Have: after}
	}
	m.info.Before, m.info.Written, m.info.After, m.info.Copied = m.before, m.fresh.rows, after, m.copied.rows
	m.info.Deleted, m.info.Partial, m.info.Watermark, m.info.Fetch = p.Deleted, p.Rows < 0, p.Watermark, &p.Fetch
	m.r.mu.Lock()
	defer m.r.mu.Unlock()
	m.fresh.evidence = []evidence.Evidence{p.Sweep}
	for _, s := range []*Slice{m.fresh, m.copied} {
		s.done, s.err = true, ErrEnded
	}
	return nil
}

// after counts the rows of the version to be: files that stay by the log, new ones by their footers, which were read back.
func (m *Merge) after() (rows int64) {
	for i, f := range m.r.base.Files {
		if !m.remove[f.Path] {
			rows += m.rows[i]
		}
	}
	for _, s := range []*Slice{m.fresh, m.copied} {
		for _, p := range s.parts {
			rows += p.footer.Rows
		}
	}
	return rows
}

// copy copies the files that must be, without the dropped rows. Neighbours that are small come into one file.
func (m *Merge) copy(ctx context.Context) error {
	dropped := make([]int64, len(m.rows))
	var last Position
	for rec, err := range m.drops.Sorted() {
		if err != nil {
			return fmt.Errorf("export: %w", err)
		}
		p := Position(rec.Key)
		if p == last && dropped[p.file()] > 0 {
			return errors.New("export: a row was dropped twice: nothing was published")
		}
		last = p
		dropped[p.file()]++
	}
	fold := m.fold(dropped)
	next, stop := iter.Pull2(m.drops.Sorted())
	defer stop()
	c := copier{m: m, next: func() (Position, error) {
		rec, err, ok := next()
		if err != nil || !ok {
			return Position{}, err
		}
		return Position(rec.Key), nil
	}}
	for i, f := range m.r.base.Files {
		if dropped[i] == 0 && !fold[i] {
			continue
		}
		m.remove[f.Path] = true
		if err := c.file(ctx, i, dropped[i]); err != nil {
			return err
		}
		if open := m.copied.open; open != nil && open.w.Written() >= m.r.spec.FileBytes/2 {
			if err := m.copied.finish(ctx); err != nil {
				return err
			}
		}
	}
	return m.copied.close(ctx)
}

// fold says which small files are copied although no row of theirs is dropped: all of them, when there are many.
func (m *Merge) fold(dropped []int64) map[int]bool {
	small := map[int]bool{}
	for i, f := range m.r.base.Files {
		if dropped[i] == 0 && f.Size < m.r.spec.FileBytes/smallPart {
			small[i] = true
		}
	}
	if len(small) < foldAt {
		return nil
	}
	return small
}

// copier copies files without the dropped rows, which come in the order of the files.
type copier struct {
	m    *Merge
	next func() (Position, error)
}

func (c *copier) file(ctx context.Context, i int, dropped int64) error {
	m := c.m
	if dropped == m.rows[i] {
		for range dropped {
			if _, err := c.next(); err != nil {
				return fmt.Errorf("export: %w", err)
			}
		}
		return nil
	}
	before := m.copied.rows
	drop, left, first := int64(-1), dropped, int64(0)
	advance := func() error {
		if drop = -1; left == 0 {
			return nil
		}
		p, err := c.next()
		if err != nil {
			return fmt.Errorf("export: %w", err)
		}
		left, drop = left-1, p.row()
		return nil
	}
	if err := advance(); err != nil {
		return err
	}
	for rec, err := range m.r.d.Records(ctx, m.r.base, m.r.base.Files[i], columnNames(m.r.spec.Schema), 0) {
		if err != nil {
			return err
		}
		from, n := int64(0), rec.NumRows()
		for drop >= first && drop < first+n {
			if err := m.keep(ctx, rec, from, drop-first); err != nil {
				return err
			}
			from = drop - first + 1
			if err := advance(); err != nil {
				return err
			}
		}
		if err := m.keep(ctx, rec, from, n); err != nil {
			return err
		}
		first += n
	}
	if kept := m.copied.rows - before; kept != m.rows[i]-dropped {
		return &MergeMismatch{What: "the copy of " + m.r.base.Files[i].Path, Want: m.rows[i] - dropped, Have: kept}
	}
	return nil
}

// keep copies the rows from ≤ row < to.
func (m *Merge) keep(ctx context.Context, rec arrow.Record, from, to int64) error {
	if from >= to {
		return nil
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("export: %w", context.Cause(ctx))
	}
	part := rec.NewSlice(from, to)
	defer part.Release()
	out := array.NewRecord(m.r.spec.Schema, part.Columns(), part.NumRows())
	defer out.Release()
	return m.copied.append(ctx, out)
}

func columnNames(s *arrow.Schema) []string {
	names := make([]string, s.NumFields())
	for i, f := range s.Fields() {
		names[i] = f.Name
	}
	return names
}

// removes are the files that the merge replaces. Whoever has rearranged the files meanwhile has moved the rows that it speaks of.
func (m *Merge) removes(base *delta.Snapshot, now time.Time, c *Commit) (out []delta.Action, err error) {
	left := len(m.remove)
	for _, f := range base.Files {
		if !m.remove[f.Path] {
			continue
		}
		left--
		out = append(out, removal(f, now.UnixMilli(), true))
	}
	if left > 0 {
		return nil, &delta.Conflict{Version: base.Version, Reason: "the files that hold the changed rows were rearranged meanwhile"}
	}
	c.Removed, c.Merge = len(out), &m.info
	return out, nil
}

// describe makes the commitInfo that of a merge, with the metrics that Spark gives to one.
func (m *Merge) describe(out delta.CommitInfo) {
	out["operation"] = "MERGE"
	out["operationParameters"] = map[string]string{"predicate": "[\"the key\"]"}
	metrics, _ := out["operationMetrics"].(map[string]string)
	count := func(name string, n int64) { metrics[name] = fmt.Sprint(n) }
	count("numSourceRows", m.info.Written)
	count("numTargetRowsInserted", m.info.Written-(m.info.Dropped-m.info.Deleted))
	count("numTargetRowsUpdated", m.info.Dropped-m.info.Deleted)
	count("numTargetRowsDeleted", m.info.Deleted)
	count("numTargetRowsCopied", m.info.Copied)
}
