package delta

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
)

// Protocol is the protocol action.
type Protocol struct {
	MinReaderVersion int      `json:"minReaderVersion"`
	MinWriterVersion int      `json:"minWriterVersion"`
	ReaderFeatures   []string `json:"readerFeatures,omitempty"`
	WriterFeatures   []string `json:"writerFeatures,omitempty"`
}

// Format is the file format of a table: always parquet.
type Format struct {
	Provider string            `json:"provider"`
	Options  map[string]string `json:"options"`
}

// Metadata is the metaData action.
type Metadata struct {
	ID               string            `json:"id"`
	Name             string            `json:"name,omitempty"`
	Description      string            `json:"description,omitempty"`
	Format           Format            `json:"format"`
	SchemaString     string            `json:"schemaString"`
	PartitionColumns []string          `json:"partitionColumns"`
	Configuration    map[string]string `json:"configuration"`
	CreatedTime      int64             `json:"createdTime"` // ms since 1970
}

// Add is the add action. Path is as in the log: relative and URL-encoded.
type Add struct {
	Path             string             `json:"path"`
	PartitionValues  map[string]*string `json:"partitionValues"`
	Size             int64              `json:"size"`
	ModificationTime int64              `json:"modificationTime"` // ms since 1970
	DataChange       bool               `json:"dataChange"`
	Stats            string             `json:"stats,omitempty"` // JSON text, see Stats
	Tags             map[string]string  `json:"tags,omitempty"`
}

// Remove is the remove action.
type Remove struct {
	Path                 string             `json:"path"`
	DeletionTimestamp    int64              `json:"deletionTimestamp"` // ms since 1970
	DataChange           bool               `json:"dataChange"`
	ExtendedFileMetadata bool               `json:"extendedFileMetadata"`
	PartitionValues      map[string]*string `json:"partitionValues,omitempty"`
	Size                 int64              `json:"size,omitempty"`
}

// Txn is the txn action: an application's progress.
type Txn struct {
	AppID       string `json:"appId"`
	Version     int64  `json:"version"`
	LastUpdated int64  `json:"lastUpdated,omitempty"` // ms since 1970
}

// CommitInfo is free-form provenance. Numbers that were read are json.Number.
type CommitInfo map[string]any

// Action is one line of a log entry: exactly one field is set.
type Action struct {
	Protocol   *Protocol  `json:"protocol,omitempty"`
	Metadata   *Metadata  `json:"metaData,omitempty"`
	Add        *Add       `json:"add,omitempty"`
	Remove     *Remove    `json:"remove,omitempty"`
	Txn        *Txn       `json:"txn,omitempty"`
	CommitInfo CommitInfo `json:"commitInfo,omitempty"`
}

// kinds is how many fields of a are set.
func (a Action) kinds() int {
	n := 0
	for _, set := range []bool{a.Protocol != nil, a.Metadata != nil, a.Add != nil, a.Remove != nil, a.Txn != nil, a.CommitInfo != nil} {
		if set {
			n++
		}
	}
	return n
}

// Key is the key of the file in the table's bucket: the decoded path. A path outside of the table (an absolute URL, as in a
// shallow clone) has none.
func (a Add) Key() (string, error) { return pathKey(a.Path) }

// Key is the key of the file in the table's bucket, see [Add.Key].
func (r Remove) Key() (string, error) { return pathKey(r.Path) }

func pathKey(path string) (string, error) {
	key, err := url.PathUnescape(path)
	if err != nil {
		return "", fmt.Errorf("delta: the path of a data file is not URL-encoded: %w", err)
	}
	if key == "" || strings.HasPrefix(key, "/") || strings.Contains(strings.SplitN(path, "/", 2)[0], ":") {
		return "", fmt.Errorf("delta: the data file %q lies outside of the table", path)
	}
	return key, nil
}

// EncodePath turns a key of the table's bucket into the path of an add or remove action.
func EncodePath(key string) string {
	parts := strings.Split(key, "/")
	for i, p := range parts {
		// A colon in the first segment would read as a URL scheme.
		parts[i] = strings.ReplaceAll(url.PathEscape(p), ":", "%3A")
	}
	return strings.Join(parts, "/")
}

// encode writes a log entry: one action per line.
func encode(actions []Action) ([]byte, error) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf) // ends every value with a newline
	enc.SetEscapeHTML(false)
	for i, a := range actions {
		if err := enc.Encode(wire(a)); err != nil {
			return nil, fmt.Errorf("delta: action %d cannot be written as JSON: %w", i, err)
		}
	}
	return buf.Bytes(), nil
}

// wire is a with the maps and lists that must never be null. PROTOCOL.md, "Add File" and "Change Metadata": partitionValues,
// partitionColumns, configuration and format.options are required; readers fail on null.
func wire(a Action) any {
	switch {
	case a.CommitInfo != nil:
		return map[string]any{"commitInfo": a.CommitInfo} // an empty one too
	case a.Metadata != nil:
		m := *a.Metadata
		m.PartitionColumns = notNil(m.PartitionColumns)
		m.Configuration = notNilMap(m.Configuration)
		m.Format.Options = notNilMap(m.Format.Options)
		a.Metadata = &m
	case a.Add != nil:
		add := *a.Add
		add.PartitionValues = notNilMap(add.PartitionValues)
		a.Add = &add
	case a.Remove != nil && a.Remove.ExtendedFileMetadata:
		// With extendedFileMetadata the values must be there, empty or not.
		type extended struct {
			Path                 string             `json:"path"`
			DeletionTimestamp    int64              `json:"deletionTimestamp"`
			DataChange           bool               `json:"dataChange"`
			ExtendedFileMetadata bool               `json:"extendedFileMetadata"`
			PartitionValues      map[string]*string `json:"partitionValues"`
			Size                 int64              `json:"size"`
		}
		r := extended(*a.Remove)
		r.PartitionValues = notNilMap(r.PartitionValues)
		return map[string]any{"remove": r}
	}
	return a
}

func notNil(s []string) []string {
	if s == nil {
		return []string{}
	}
	return s
}

func notNilMap[V any](m map[string]V) map[string]V {
	if m == nil {
		return map[string]V{}
	}
	return m
}

// decode reads a log entry. Lines with none but unknown actions are passed over.
func decode(version int64, data []byte) ([]Action, error) {
	var actions []Action
	line, seen := 0, false
	for len(data) > 0 {
		var text []byte
		text, data, _ = bytes.Cut(data, []byte("\n"))
		line++
		if text = bytes.TrimSpace(text); len(text) == 0 {
			continue
		}
		seen = true
		a, err := decodeLine(text)
		if err != nil {
			return nil, &Corrupt{Version: version, Line: line, Err: err}
		}
		if n := a.kinds(); n > 1 {
			return nil, &Corrupt{Version: version, Line: line, Err: fmt.Errorf("%d actions on one line", n)}
		} else if n == 1 {
			actions = append(actions, a)
		}
	}
	if !seen {
		return nil, &Corrupt{Version: version, Line: 1, Err: errEmpty}
	}
	return actions, nil
}

func decodeLine(text []byte) (Action, error) {
	var a Action
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(text, &fields); err != nil {
		return a, plain(err)
	}
	if fields == nil {
		return a, fmt.Errorf("the line is null, not an action")
	}
	for name, raw := range fields {
		if string(raw) == "null" {
			continue
		}
		if err := a.set(name, raw); err != nil {
			return a, fmt.Errorf("%s: %w", name, plain(err))
		}
	}
	return a, nil
}

func (a *Action) set(name string, raw json.RawMessage) error {
	switch name {
	case "protocol":
		a.Protocol = new(Protocol)
		return json.Unmarshal(raw, a.Protocol)
	case "metaData":
		a.Metadata = new(Metadata)
		return json.Unmarshal(raw, a.Metadata)
	case "add":
		a.Add = new(Add)
		if err := json.Unmarshal(raw, a.Add); err != nil {
			return err
		}
		return needPath(a.Add.Path)
	case "remove":
		a.Remove = new(Remove)
		if err := json.Unmarshal(raw, a.Remove); err != nil {
			return err
		}
		return needPath(a.Remove.Path)
	case "txn":
		a.Txn = new(Txn)
		return json.Unmarshal(raw, a.Txn)
	case "commitInfo":
		a.CommitInfo = CommitInfo{}
		dec := json.NewDecoder(bytes.NewReader(raw))
		dec.UseNumber()
		return dec.Decode(&a.CommitInfo)
	}
	return nil // cdc, domainMetadata, sidecar, checkpointMetadata and what is yet to come
}

func needPath(p string) error {
	if p == "" {
		return fmt.Errorf("there is no path")
	}
	return nil
}

// plain is a JSON error without the text around it: a log may hold values of rows (statistics).
func plain(err error) error {
	switch e := err.(type) {
	case *json.SyntaxError:
		return fmt.Errorf("not valid JSON at byte %d", e.Offset)
	case *json.UnmarshalTypeError:
		return fmt.Errorf("the field %q is not of the type that Delta wants", e.Field)
	}
	return err
}
