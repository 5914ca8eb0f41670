package export

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/apache/arrow/go/v17/arrow"

	"github.com/tablexport/tablexport/export/delta"
	"github.com/tablexport/tablexport/export/parquet"
)

// CompactSpec is how files are merged.
type CompactSpec struct {
	Engine    string          // "tablexport/1.2.3"
	FileBytes int64           // size of a merged file, about (512 MiB); only files of less than three quarters of it are merged
	Parquet   parquet.Options // of the merged files; the key and the files' own metadata are kept
}

// CompactReport says what a compaction did.
type CompactReport struct {
	Version    int64 `json:"version"`    // the newest version that it published; without any, the one that it looked at
	Partitions int   `json:"partitions"` // in which files were merged
	Merged     int   `json:"merged"`     // files that were replaced
	Into       int   `json:"into"`       // files that replace them
	Rows       int64 `json:"rows"`
	Before     int64 `json:"before"`  // bytes of what was replaced
	After      int64 `json:"after"`   // bytes of what replaces it
	Skipped    int   `json:"skipped"` // partitions that somebody else changed meanwhile: the next compaction finds them
}

// Compact merges small files of one partition into files of about the target size. The rows stay what they were, in their order, and so do
// the tags: files are merged only with files of the same window and query, with the oldest tablexport.loaded of all, and of the other tags those on
// which all agree. Each partition is published by a commit of its own that changes no data (dataChange=false), conflicts with any change of
// data in its partition, and with nothing else: a refresh wins against it, and loses nothing by it.
//
// A merged file counts only after its footer was read back and its rows were those of the files that it replaces. A crash at any point leaves
// files that no log entry names, which are [Dataset.Sweep]'s. The replaced files stay until a vacuum.
func (d *Dataset) Compact(ctx context.Context, spec CompactSpec) (CompactReport, error) {
	if spec.FileBytes < 0 {
		return CompactReport{}, fmt.Errorf("export: files of %d bytes cannot be made", spec.FileBytes)
	}
	if spec.FileBytes == 0 {
		spec.FileBytes = DefaultFileBytes
	}
	s, err := d.table(ctx)
	if err != nil {
		return CompactReport{}, err
	}
	report := CompactReport{Version: s.Version}
	for _, p := range mergeable(s, spec.FileBytes) {
		c := &compaction{d: d, spec: spec, base: s, partition: p}
		err := c.run(ctx)
		var conflict *delta.Conflict
		if errors.As(err, &conflict) {
			report.Skipped++
			continue
		}
		if err != nil {
			return report, err
		}
		report.Version = max(report.Version, c.version)
		report.Partitions++
		for _, m := range c.done {
			report.Merged, report.Into, report.Rows = report.Merged+len(m.from), report.Into+1, report.Rows+m.part.footer.Rows
			report.Before, report.After = report.Before+m.bytes(), report.After+m.part.footer.Size
		}
	}
	return report, nil
}

// partition is what can be merged in one partition.
type partition struct {
	values map[string]*string
	bins   [][]delta.Add // each becomes one file
}

// mergeable finds them, by partition.
func mergeable(s *delta.Snapshot, target int64) []partition {
	groups := map[string][]delta.Add{} // by partition, window and query
	for _, f := range s.Files {
		key := fmt.Sprintf("%s\x00%q\x00%q", partitionName(f.PartitionValues), f.Tags[tagWindow], f.Tags[tagQuery])
		groups[key] = append(groups[key], f)
	}
	byPartition := map[string]*partition{}
	for _, key := range slices.Sorted(maps.Keys(groups)) {
		files := groups[key]
		slices.SortStableFunc(files, func(a, b delta.Add) int {
			return cmp.Or(cmp.Compare(a.Tags[tagLoaded], b.Tags[tagLoaded]), cmp.Compare(a.Path, b.Path))
		})
		bins := pack(files, target)
		if len(bins) == 0 {
			continue
		}
		name := partitionName(files[0].PartitionValues)
		if byPartition[name] == nil {
			byPartition[name] = &partition{values: files[0].PartitionValues}
		}
		byPartition[name].bins = append(byPartition[name].bins, bins...)
	}
	var out []partition
	for _, name := range slices.Sorted(maps.Keys(byPartition)) {
		out = append(out, *byPartition[name])
	}
	return out
}

// partitionName tells partitions apart.
func partitionName(values map[string]*string) string {
	var b strings.Builder
	for _, k := range slices.Sorted(maps.Keys(values)) {
		if v := values[k]; v == nil {
			fmt.Fprintf(&b, "%q,", k)
		} else {
			fmt.Fprintf(&b, "%q=%q,", k, *v)
		}
	}
	return b.String()
}

// pack puts neighbours that are small into bins of about the target size. One file alone is nothing to merge.
func pack(files []delta.Add, target int64) (bins [][]delta.Add) {
	var bin []delta.Add
	size := int64(0)
	end := func() {
		if len(bin) > 1 {
			bins = append(bins, bin)
		}
		bin, size = nil, 0
	}
	for _, f := range files {
		if f.Size >= target/4*3 {
			end()
			continue
		}
		if size+f.Size > target {
			end()
		}
		bin, size = append(bin, f), size+f.Size
	}
	end()
	return bins
}

// merged is a file that replaces others.
type merged struct {
	from []delta.Add
	part *part
	tags map[string]string
}

func (m *merged) bytes() (sum int64) {
	for _, f := range m.from {
		sum += f.Size
	}
	return sum
}

// compaction is that of one partition.
type compaction struct {
	d         *Dataset
	spec      CompactSpec
	base      *delta.Snapshot
	partition partition
	done      []*merged
	version   int64
}

// run merges and publishes. After an error that is not *delta.Unresolved nothing of it stays, as far as it can be deleted.
func (c *compaction) run(ctx context.Context) error {
	var id [8]byte
	_, _ = rand.Read(id[:]) // never fails
	text := hex.EncodeToString(id[:])
	err := c.merge(ctx, text[:8], text[8:])
	if err == nil {
		err = c.publish(ctx)
	}
	var unresolved *delta.Unresolved
	if err != nil && !errors.As(err, &unresolved) {
		c.drop(ctx)
	}
	return err
}

func (c *compaction) merge(ctx context.Context, id, attempt string) error {
	for n, bin := range c.partition.bins {
		first, err := bin[0].Key()
		if err != nil {
			return err
		}
		key := path.Join(path.Dir(first), fmt.Sprintf("part-compact-%s-%s-%05d.zstd.parquet", id, attempt, n))
		m := &merged{from: bin, part: &part{key: key}, tags: commonTags(bin)}
		c.done = append(c.done, m)
		if err := c.write(ctx, m); err != nil {
			return fmt.Errorf("export: compacting into %s: %w", key, err)
		}
	}
	return nil
}

// commonTags are those on which all files agree, and the oldest time of loading: what a merged file holds is no older.
func commonTags(files []delta.Add) map[string]string {
	tags := maps.Clone(files[0].Tags)
	for _, f := range files[1:] {
		for k, v := range tags {
			if f.Tags[k] == v {
				continue
			}
			if k == tagLoaded && f.Tags[k] != "" {
				tags[k] = older(v, f.Tags[k])
				continue
			}
			delete(tags, k)
		}
	}
	return tags
}

func older(a, b string) string {
	x, errx := time.Parse(time.RFC3339Nano, a)
	y, erry := time.Parse(time.RFC3339Nano, b)
	if errx != nil || erry == nil && y.Before(x) {
		return b
	}
	return a
}

// write makes the merged file and reads its footer back.
func (c *compaction) write(ctx context.Context, m *merged) (err error) {
	schema, err := c.stored()
	if err != nil {
		return err
	}
	names := make([]string, schema.NumFields())
	for i, f := range schema.Fields() {
		names[i] = f.Name
	}
	options, err := c.options(ctx, m.from)
	if err != nil {
		return err
	}
	p := m.part
	if p.upload, err = c.d.b.Create(ctx, p.key); err != nil {
		return err
	}
	if p.w, err = parquet.NewWriter(p.upload, schema, options); err != nil {
		return err
	}
	want := int64(0)
	for _, f := range m.from {
		for rec, err := range c.d.Records(ctx, c.base, f, names, 0) {
			if err != nil {
				return err
			}
			want += rec.NumRows()
			if err := p.w.Write(rec); err != nil {
				return err
			}
		}
		if st, err := delta.ParseStats(f.Stats); err == nil {
			if want -= st.NumRecords; want != 0 {
				return fmt.Errorf("%s has %d rows more than the log says", f.Path, want)
			}
		}
	}
	if p.footer, err = p.w.Close(); err != nil {
		return err
	}
	p.w = nil
	if p.info, err = p.upload.Commit(ctx); err != nil {
		return err
	}
	p.upload = nil
	return c.readBack(ctx, p)
}

func (c *compaction) readBack(ctx context.Context, p *part) error {
	if p.info.Size != p.footer.Size {
		return fmt.Errorf("%d bytes in the store, %d were written", p.info.Size, p.footer.Size)
	}
	f, err := parquet.Open(c.d.readerAt(ctx, p.key), p.info.Size)
	if err != nil {
		return fmt.Errorf("it cannot be read back: %w", err)
	}
	return f.Check(p.footer)
}

// stored are the columns that files hold: all but the partition columns.
func (c *compaction) stored() (*arrow.Schema, error) {
	table, err := schemaOf(c.base)
	if err != nil {
		return nil, err
	}
	var fields []arrow.Field
	for _, f := range table.Fields() {
		if !slices.Contains(c.base.Metadata.PartitionColumns, f.Name) {
			fields = append(fields, f)
		}
	}
	return arrow.NewSchema(fields, nil), nil
}

// options are the caller's with the table's key, and the metadata on which the files agree.
func (c *compaction) options(ctx context.Context, files []delta.Add) (parquet.Options, error) {
	o := c.spec.Parquet
	o.Metadata = nil
	for i, f := range files {
		key, err := f.Key()
		if err != nil {
			return o, err
		}
		file, err := parquet.Open(c.d.readerAt(ctx, key), f.Size)
		if err != nil {
			return o, fmt.Errorf("%s: %w", key, err)
		}
		if i == 0 {
			o.Metadata = maps.Clone(file.Metadata)
		}
		maps.DeleteFunc(o.Metadata, func(k, v string) bool { return !strings.HasPrefix(k, "tablexport.") || file.Metadata[k] != v })
	}
	schema, err := c.stored()
	if err != nil {
		return o, err
	}
	for name := range strings.SplitSeq(c.base.Metadata.Configuration[confKey], ",") {
		if schema.HasField(name) {
			o.Key = append(o.Key, name)
		}
	}
	return o, nil
}

// publish replaces the files in one commit. Should somebody else have replaced one of them meanwhile, the commit is given up.
func (c *compaction) publish(ctx context.Context) error {
	schema, err := c.stored()
	if err != nil {
		return err
	}
	name := partitionName(c.partition.values)
	c.version, err = c.d.log.Apply(ctx, c.base, delta.Change{
		Touches: func(values map[string]*string) bool { return partitionName(values) == name },
		Build:   func(base *delta.Snapshot) ([]delta.Action, error) { return c.actions(ctx, base, schema) },
	})
	return err
}

func (c *compaction) actions(ctx context.Context, base *delta.Snapshot, schema *arrow.Schema) ([]delta.Action, error) {
	live := make(map[string]bool, len(base.Files))
	for _, f := range base.Files {
		live[f.Path] = true
	}
	now := time.Now().UnixMilli()
	files, removed := []delta.Action{}, 0
	for _, m := range c.done {
		for _, f := range m.from {
			if !live[f.Path] {
				return nil, &delta.Conflict{Version: base.Version, Reason: "it has replaced files that were being merged"}
			}
			files = append(files, removal(f, now, false))
			removed++
		}
		// A sweeper with a clock of its own could have taken the file of a compaction that slept for days.
		if info, err := c.d.b.Stat(ctx, m.part.key); err != nil {
			return nil, fmt.Errorf("export: a merged file cannot be found any more: %w", err)
		} else if info.Size != m.part.footer.Size {
			return nil, fmt.Errorf("export: %s has %d bytes in the store, %d were written", m.part.key, info.Size, m.part.footer.Size)
		}
		stats, err := statsOf(schema, m.part.footer).JSON()
		if err != nil {
			return nil, err
		}
		files = append(files, delta.Action{Add: &delta.Add{
			Path: delta.EncodePath(m.part.key), PartitionValues: maps.Clone(m.from[0].PartitionValues), Size: m.part.footer.Size,
			ModificationTime: m.part.info.Modified.UnixMilli(), Stats: stats, Tags: m.tags,
		}})
	}
	care := fmt.Sprintf("%d files merged into %d", removed, len(c.done))
	parameters := map[string]string{"targetSize": strconv.FormatInt(c.spec.FileBytes, 10)}
	return append([]delta.Action{{CommitInfo: careInfo(base, base, "OPTIMIZE", c.spec.Engine, care, parameters, len(c.done), removed)}}, files...), nil
}

// drop deletes what was not published. What it cannot is the sweeper's.
func (c *compaction) drop(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), abortTime)
	defer cancel()
	for _, m := range c.done {
		if m.part.upload != nil {
			_ = m.part.upload.Abort(ctx)
		}
		_ = c.d.b.Delete(ctx, m.part.key)
	}
}
