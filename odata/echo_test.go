package odata_test

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"

	"github.com/tablexport/tablexport/odata"
)

// A server knows the token, and may say it wherever it chooses the words. None of them gets into an error or a log.
func TestEchoesOfTheToken(t *testing.T) {
	part := token[5:25]
	rows := func(text string) func(*http.Request) *http.Response {
		return func(*http.Request) *http.Response { return reply(200, "application/json", text) }
	}
	for name, answer := range map[string]func(*http.Request) *http.Response{
		"member around the rows":  rows(`{"` + token + `":1,"value":[]}`),
		"a part of it":            rows(`{"value":[],"` + part + `":1}`),
		"member that comes twice": rows(`{"@x.` + token + `":1,"@x.` + token + `":2,"value":[]}`),
		"unexpected property":     rows(`{"value":[{"Id":1,"Name":"x","` + token + `":1}]}`),
		"code of an error inside": rows(`{"error":{"code":"` + token + `"}}`),
		"code of a refusal": func(*http.Request) *http.Response {
			return reply(400, "application/json", `{"error":{"code":"`+token+`"}}`)
		},
		"path of a next link":      rows(`{"value":[{"Id":1,"Name":"x"}],"@odata.nextLink":"https://acme.example/tableapi/odata/T/` + token + `"}`),
		"query of a next link":     rows(`{"value":[{"Id":1,"Name":"x"}],"@odata.nextLink":"T?$skiptoken=` + token + `"}`),
		"next link to another one": rows(`{"value":[{"Id":1,"Name":"x"}],"@odata.nextLink":"https://` + part + `.example/T"}`),
	} {
		t.Run(name, func(t *testing.T) {
			var log bytes.Buffer
			c := client(t, inProcess(func(r *http.Request) *http.Response {
				switch {
				case strings.HasSuffix(r.URL.Path, "/$count"):
					return reply(404, "", "")
				case r.URL.Query().Has("$count"):
					return reply(400, "", "")
				}
				return answer(r)
			}), func(o *odata.Options) {
				o.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
				o.Retry = odata.RetryPolicy{Attempts: 2, Base: 1, Max: 1}
			})
			s, err := c.Open(newBearer(token)).Scan(odata.Query{Table: tableT(t), Select: []string{"Id", "Name"}, Paging: odata.NextLink})
			if err != nil {
				t.Fatal(err)
			}
			err = nil
			for _, e := range s.Records(t.Context()) {
				err = e
			}
			if err == nil {
				t.Fatal("no error")
			}
			for _, text := range []string{err.Error(), fmt.Sprintf("%+v", err), log.String()} {
				if strings.Contains(text, part) {
					t.Errorf("the token is in: %s", text)
				}
			}
		})
	}
}

// What $metadata says of columns becomes their comments in the published table.
func TestEchoInMetadata(t *testing.T) {
	for name, said := range map[string]string{"plain": token, "escaped": strings.ReplaceAll(token, "C", "&#67;")} {
		t.Run(name, func(t *testing.T) {
			c := client(t, inProcess(func(*http.Request) *http.Response {
				return reply(200, "application/xml", `<edmx:Edmx Version="4.0" xmlns:edmx="http://docs.oasis-open.org/odata/ns/edmx"><edmx:DataServices>
<Schema Namespace="N" xmlns="http://docs.oasis-open.org/odata/ns/edm"><EntityType Name="T"><Key><PropertyRef Name="Id"/></Key>
<Property Name="Id" Type="Edm.Int32" Nullable="false"><Annotation Term="Org.OData.Core.V1.Description" String="`+said+`"/></Property></EntityType>
<EntityContainer Name="C"><EntitySet Name="T" EntityType="N.T"/></EntityContainer></Schema></edmx:DataServices></edmx:Edmx>`)
			}))
			_, err := c.Open(newBearer(token)).Metadata(t.Context())
			if err == nil || !strings.Contains(err.Error(), "repeats the token") || strings.Contains(err.Error(), token[5:]) {
				t.Errorf("got %v", err)
			}
		})
	}
}

// wide makes n rows of a megabyte each, one at a time.
type wide struct {
	n    int
	text *strings.Reader
	id   int
}

func (w *wide) Read(p []byte) (int, error) {
	for {
		if n, err := w.text.Read(p); n > 0 || err != io.EOF {
			return n, nil
		}
		switch w.id++; {
		case w.id > w.n+1:
			return 0, io.EOF
		case w.id == w.n+1:
			w.text.Reset("]}")
		default:
			comma := ","
			if w.id == 1 {
				comma = ""
			}
			w.text.Reset(fmt.Sprintf(`%s{"Id":%d,"Name":"%s"}`, comma, w.id, strings.Repeat("x", 1<<20)))
		}
	}
}

// A page whose rows are far wider than usual is not held whole: 400 rows of 1 MiB in one answer.
func TestWideRowsAreNotHeld(t *testing.T) {
	const n = 400
	c := client(t, inProcess(func(r *http.Request) *http.Response {
		v := r.URL.Query()
		switch {
		case strings.HasSuffix(r.URL.Path, "/$count") || v.Has("$count"):
			return reply(400, "", "")
		case strings.Contains(v.Get("$orderby"), "desc"):
			return reply(200, "application/json", `{"value":[{"Id":400},{"Id":399}]}`)
		case v.Get("$select") == "Id":
			return reply(200, "application/json", `{"value":[{"Id":400}]}`)
		case strings.Contains(v.Get("$filter"), "ge 400"):
			return reply(200, "application/json", `{"value":[{"Id":400,"Name":"x"}]}`)
		}
		resp := reply(200, "application/json", "")
		resp.Body = io.NopCloser(&wide{n: n, text: strings.NewReader(`{"value":[`)})
		return resp
	}))
	held := &peak{}
	s, err := c.Open(newBearer(token)).Scan(odata.Query{Table: tableT(t), Select: []string{"Id", "Name"}, Paging: odata.Key, Memory: held})
	if err != nil {
		t.Fatal(err)
	}
	rows := int64(0)
	for rec, err := range s.Records(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		rows += rec.NumRows()
	}
	if rows != n {
		t.Errorf("%d rows, want %d", rows, n)
	}
	if most := held.most; most > 160<<20 {
		t.Errorf("%d MiB were held for %d MiB of rows", most>>20, n)
	}
}
