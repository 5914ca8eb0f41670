package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/apache/arrow/go/v17/arrow"

	"github.com/tablexport/tablexport/export/parquet"
	"github.com/tablexport/tablexport/export/store"
	"github.com/tablexport/tablexport/export/store/filestore"
	"github.com/tablexport/tablexport/odata"
	"github.com/tablexport/tablexport/odata/edm"
	"github.com/tablexport/tablexport/odata/filter"
	"github.com/tablexport/tablexport/odata/scope"
	"github.com/tablexport/tablexport/odata/simulator"
)

// A station is one part of the road alone. It runs as a process of its own: this program, with `station NAME` before its
// arguments; what it prints is its cost, its start left out.
func station(args []string) error {
	if len(args) < 2 {
		return fmt.Errorf("station takes a name and arguments")
	}
	ctx := context.Background()
	switch name, rest := args[0], args[1:]; name {
	case "simulate":
		return simulate(rest[0])
	case "drain":
		return drain(rest[0])
	case "scan", "scope":
		return scan(ctx, name == "scope", rest)
	case "encode":
		return encode(ctx, rest)
	case "upload":
		return upload(ctx, rest[0])
	default:
		return fmt.Errorf("there is no station %s", name)
	}
}

// measured reports what f took.
func measured(f func() error) error {
	wall, cpu := time.Now(), cpuNow()
	if err := f(); err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(cost{CPU: cpuNow() - cpu, Wall: time.Since(wall).Seconds()})
}

// drain fetches the addresses of a list and looks at nothing.
func drain(list string) error {
	text, err := os.ReadFile(list)
	if err != nil {
		return err
	}
	return measured(func() error {
		buf := make([]byte, 256<<10)
		for address := range strings.FieldsSeq(string(text)) {
			resp, err := http.Get(address)
			if err != nil {
				return err
			}
			_, err = io.CopyBuffer(struct{ io.Writer }{io.Discard}, resp.Body, buf)
			resp.Body.Close()
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// bearer is the simulator's token.
type bearer string

func (b bearer) Authorize(_ context.Context, req *http.Request) error {
	req.Header.Set("Authorization", "Bearer "+string(b))
	return nil
}
func (bearer) Renew(context.Context) error { return io.EOF }
func (bearer) Fingerprint() string         { return "bench" }

// query is the scan of a world: its arguments are the address, the token, the rows of a page, and the columns.
func query(args []string) (*odata.Session, odata.Query, error) {
	t, err := modelTable()
	if err != nil {
		return nil, odata.Query{}, err
	}
	client, err := odata.NewClient(odata.Options{Name: "sim", URL: args[0], Sandbox: true, RequestsPerMinute: 100_000})
	if err != nil {
		return nil, odata.Query{}, err
	}
	page, err := strconv.Atoi(args[2])
	if err != nil {
		return nil, odata.Query{}, err
	}
	where, err := scopeFilter(t)
	if err != nil {
		return nil, odata.Query{}, err
	}
	return client.Open(bearer(args[1])), odata.Query{Table: t, Select: args[3:], Filter: where, PageSize: page}, nil
}

const where = "Sales_Order_Line_Id ge 00000000-0000-0000-0000-000000000000"

func scopeFilter(t *edm.Table) (filter.Bound, error) {
	model, err := edm.New(*t)
	if err != nil {
		return filter.Bound{}, err
	}
	return filter.Compile(where, model, t)
}

// scan fetches and decodes, with everything that proves the table complete; with the scope if that is wanted.
func scan(ctx context.Context, checked bool, args []string) error {
	session, q, err := query(args)
	if err != nil {
		return err
	}
	return measured(func() error {
		if checked {
			schema, err := odata.ArrowSchema(q.Table, q.Select)
			if err != nil {
				return err
			}
			s, err := scope.New(scope.Rules{Name: "bench", Where: q.Filter}, schema, q.Select)
			if err != nil {
				return err
			}
			q.Inspect = func(rec arrow.Record, _ int64) error {
				c, err := s.Check(rec)
				c.Release()
				return err
			}
		}
		run, err := session.Scan(q)
		if err != nil {
			return err
		}
		for _, err := range run.Records(ctx) {
			if err != nil {
				return err
			}
		}
		ev := run.Evidence()
		return ev.Judge()
	})
}

// simulate serves the table with so many rows, and says where.
func simulate(rows string) error {
	n, err := strconv.ParseInt(rows, 10, 64)
	if err != nil {
		return err
	}
	m, err := model()
	if err != nil {
		return err
	}
	server, err := simulator.New(simulator.Options{Seed: 1, Model: m, Rows: map[string]int64{table: n}})
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	said := struct{ URL, Token string }{"http://" + l.Addr().String(), simulator.DemoToken}
	if err := json.NewEncoder(os.Stdout).Encode(said); err != nil {
		return err
	}
	return (&http.Server{Handler: server, ReadHeaderTimeout: time.Minute}).Serve(l)
}

const encodePasses = 3

// encode keeps the records of a scan in memory and writes them a few times, to nowhere. The cost is that of one time.
func encode(ctx context.Context, args []string) error {
	session, q, err := query(args)
	if err != nil {
		return err
	}
	run, err := session.Scan(q)
	if err != nil {
		return err
	}
	var records []arrow.Record
	for rec, err := range run.Records(ctx) {
		if err != nil {
			return err
		}
		rec.Retain()
		records = append(records, rec)
	}
	wall, cpu := time.Now(), cpuNow()
	for range encodePasses {
		w, err := parquet.NewWriter(io.Discard, records[0].Schema(), parquet.Options{Key: q.Table.Key})
		if err != nil {
			return err
		}
		for _, rec := range records {
			if err := w.Write(rec); err != nil {
				return err
			}
		}
		if _, err := w.Close(); err != nil {
			return err
		}
	}
	return json.NewEncoder(os.Stdout).Encode(cost{CPU: (cpuNow() - cpu) / encodePasses, Wall: time.Since(wall).Seconds() / encodePasses})
}

// upload copies a file into a directory store, as parts of a dataset come there.
func upload(ctx context.Context, file string) error {
	dir, err := os.MkdirTemp(filepath.Dir(file), "upload-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	bucket, err := filestore.Open(dir)
	if err != nil {
		return err
	}
	return measured(func() error { return copyInto(ctx, bucket, file) })
}

func copyInto(ctx context.Context, bucket store.Bucket, file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	u, err := bucket.Create(ctx, "part.parquet")
	if err != nil {
		return err
	}
	if _, err := io.CopyBuffer(struct{ io.Writer }{u}, f, make([]byte, 256<<10)); err != nil {
		return err
	}
	_, err = u.Commit(ctx)
	return err
}
