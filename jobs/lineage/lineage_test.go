package lineage_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/tablexport/tablexport/jobs/lineage"
)

// catalog takes events.
type catalog struct {
	mu     sync.Mutex
	bodies [][]byte
	keys   []string
	answer func(n int) int // status of the n-th request
	asked  int
}

func (c *catalog) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asked++
	if c.answer != nil {
		if status := c.answer(c.asked); status != 200 {
			w.WriteHeader(status)
			return
		}
	}
	c.bodies, c.keys = append(c.bodies, body), append(c.keys, r.Header.Get("Authorization"))
}

func (c *catalog) got() [][]byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.bodies)
}

func serve(t *testing.T, c *catalog) string {
	t.Helper()
	s := httptest.NewServer(c)
	t.Cleanup(s.Close)
	return s.URL + "/api/v1/lineage"
}

func event(kind lineage.Type) lineage.Event {
	return lineage.Event{Type: kind, At: time.Date(2026, 11, 26, 6, 0, 1, 0, time.FixedZone("x", 7200)), Run: "0199f0aa-0000-7000-8000-000000000001", Job: "lines", About: "Order lines",
		Nominal: time.Date(2026, 11, 26, 4, 0, 0, 0, time.UTC), Instance: "acme.my.erp.net", Table: "Crm_Sales_Order_Lines", Dataset: "s3://acme-bi/erp/lines", Engine: "tablexport/1.2.3", Version: -1}
}

func events() []lineage.Event {
	done := event(lineage.Complete)
	done.Version, done.Rows, done.Bytes = 7, 1234, 56789
	done.Columns = []lineage.Column{{Name: "Id", Type: "string", Text: "The key"}, {Name: "Amount", Type: "decimal(18,2)"}}
	failed := event(lineage.Fail)
	failed.Class, failed.Error, failed.Nominal, failed.About = "scope", "a row outside", time.Time{}, ""
	local := event(lineage.Abort)
	local.Dataset = "/var/lib/lake/lines"
	return []lineage.Event{event(lineage.Start), done, failed, local}
}

func compiled(t *testing.T) *jsonschema.Schema {
	t.Helper()
	text, err := os.ReadFile("testdata/run-event.json")
	if err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	if err := c.AddResource("run-event.json", doc); err != nil {
		t.Fatal(err)
	}
	schema, err := c.Compile("run-event.json")
	if err != nil {
		t.Fatal(err)
	}
	return schema
}

// Every event is what the specification demands, and says what it is to say.
func TestEvents(t *testing.T) {
	c := &catalog{}
	e := lineage.New(lineage.Options{URL: serve(t, c), Namespace: "acme"})
	for _, one := range events() {
		e.Emit(one)
	}
	e.Close(t.Context())
	schema, got := compiled(t), c.got()
	if len(got) != 4 || e.Lost() != 0 {
		t.Fatalf("%d events, %d lost", len(got), e.Lost())
	}
	for i, body := range got {
		doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(body))
		if err == nil {
			err = schema.Validate(doc)
		}
		if err != nil {
			t.Errorf("event %d: %v\n%s", i, err, body)
		}
	}
	for _, want := range []string{`"eventType":"COMPLETE"`, `"eventTime":"2026-11-26T04:00:01Z"`, `"nominalStartTime":"2026-11-26T04:00:00Z"`, `"namespace":"acme","name":"lines"`,
		`"namespace":"erpnet://acme.my.erp.net","name":"Crm_Sales_Order_Lines"`, `"namespace":"s3://acme-bi","name":"erp/lines"`, `"datasetVersion":"7"`, `"rowCount":1234,"size":56789`,
		`{"name":"Id","type":"string","description":"The key"},{"name":"Amount","type":"decimal(18,2)"}`, `"version":"1.2.3","name":"tablexport"`} {
		if !bytes.Contains(got[1], []byte(want)) {
			t.Errorf("%s is not in %s", want, got[1])
		}
	}
	if !bytes.Contains(got[2], []byte(`"message":"a row outside","programmingLanguage":"GO","class":"scope"`)) || bytes.Contains(got[2], []byte("nominal")) {
		t.Errorf("%s", got[2])
	}
	if !bytes.Contains(got[3], []byte(`"namespace":"file","name":"/var/lib/lake/lines"`)) || bytes.Contains(got[0], []byte("outputStatistics")) {
		t.Errorf("%s\n%s", got[3], got[0])
	}
}

func types(t *testing.T, bodies [][]byte) (list []string) {
	t.Helper()
	for _, b := range bodies {
		var e struct{ EventType, Job any }
		if err := json.Unmarshal(b, &e); err != nil {
			t.Fatal(err)
		}
		list = append(list, fmt.Sprint(e.EventType))
	}
	return list
}

// A catalog that is away for a while gets everything, once and in order; a key that is replaced is read anew.
func TestTriesAgain(t *testing.T) {
	key := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(key, []byte("old\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c := &catalog{}
	c.answer = func(n int) int {
		switch n {
		case 1:
			return 503
		case 2:
			_ = os.WriteFile(key, []byte("new"), 0o600)
			return 401
		}
		return 200
	}
	e := lineage.New(lineage.Options{URL: serve(t, c), Namespace: "acme", KeyFile: key})
	for _, one := range events() {
		e.Emit(one)
	}
	for len(c.got()) < 4 {
		time.Sleep(time.Millisecond)
	}
	e.Close(t.Context())
	if got := types(t, c.got()); !slices.Equal(got, []string{"START", "COMPLETE", "FAIL", "ABORT"}) || e.Lost() != 0 {
		t.Errorf("%v, %d lost", got, e.Lost())
	}
	if c.keys[0] != "Bearer new" {
		t.Errorf("keys %v", c.keys)
	}
}

// What is refused for good is lost at once and does not hold up the others; nobody follows a redirect with the key; the log has neither key nor path.
func TestRefused(t *testing.T) {
	key := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(key, []byte("CANARY-KEY"), 0o600); err != nil {
		t.Fatal(err)
	}
	elsewhere := &catalog{}
	away := serve(t, elsewhere)
	n := 0
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch n++; n {
		case 1:
			http.Error(w, "CANARY-KEY is wrong", http.StatusUnprocessableEntity)
		case 2:
			http.Redirect(w, r, away, http.StatusTemporaryRedirect)
		}
	}))
	defer s.Close()
	var log bytes.Buffer
	var delivered, lost int
	e := lineage.New(lineage.Options{URL: s.URL + "/CANARY-PATH", KeyFile: key, Log: slog.New(slog.NewTextHandler(&log, nil)), Done: func(ok bool) {
		if ok {
			delivered++
		} else {
			lost++
		}
	}})
	for _, one := range events() {
		e.Emit(one)
	}
	e.Close(t.Context())
	if delivered != 2 || lost != 2 || e.Lost() != 2 || len(elsewhere.got()) != 0 {
		t.Errorf("%d delivered, %d lost, %d elsewhere", delivered, lost, len(elsewhere.got()))
	}
	if text := log.String(); strings.Contains(text, "CANARY") || strings.Count(text, "was not delivered") != 2 {
		t.Errorf("%s", text)
	}
}

// Nobody waits for a catalog that hangs: the queue is bounded, what finds no room is counted, and the end is bounded too.
func TestNobodyWaits(t *testing.T) {
	hang := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-hang }))
	defer s.Close()
	defer close(hang)
	e := lineage.New(lineage.Options{URL: s.URL, Queue: 3, Timeout: time.Hour, Patience: time.Hour})
	for range 100 {
		e.Emit(event(lineage.Start)) // returns at once, or the test never ends
	}
	if lost := e.Lost(); lost < 96 {
		t.Errorf("%d lost", lost)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	e.Close(ctx)
	e.Emit(event(lineage.Start))
	if lost := e.Lost(); lost < 97 {
		t.Errorf("%d lost", lost)
	}
}
