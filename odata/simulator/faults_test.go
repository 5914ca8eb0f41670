package simulator

import (
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// exchange sends one data request for products and reads as much as there is.
func exchange(t *testing.T, base string, options ...string) (resp *http.Response, body string, err error) {
	t.Helper()
	client := &http.Client{
		Transport:     &http.Transport{DisableCompression: true, DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	resp, err = client.Do(request(t, base, product, options...))
	if err != nil {
		return nil, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp, string(b), err
}

// TestFaults strikes the second request with every effect. The requests before and behind it are not touched.
func TestFaults(t *testing.T) {
	type result struct {
		resp *http.Response
		body string
		err  error
	}
	parses := func(r result) bool { return r.err == nil && json.Valid([]byte(r.body)) }
	count := func(r result) int {
		var p page
		_ = json.Unmarshal([]byte(r.body), &p)
		return len(p.Value)
	}
	for name, c := range map[string]struct {
		effect Effect
		check  func(r result) bool
	}{
		"status":       {Status(502, ""), func(r result) bool { return r.resp.StatusCode == 502 && parses(r) }},
		"status, body": {Status(403, `{"x":1}`), func(r result) bool { return r.resp.StatusCode == 403 && r.body == `{"x":1}` }},
		"server error": {ServerError(), func(r result) bool {
			return r.resp.StatusCode == 500 && strings.Contains(r.body, StackCanary) && strings.Contains(r.body, `"info"`) && parses(r)
		}},
		"429":               {TooMany(0), func(r result) bool { return r.resp.StatusCode == 429 && r.resp.Header.Get("Retry-After") == "" }},
		"429 + Retry-After": {TooMany(90 * time.Second), func(r result) bool { return r.resp.StatusCode == 429 && r.resp.Header.Get("Retry-After") == "90" }},
		"reset":             {Reset(), func(r result) bool { return r.resp == nil && r.err != nil }},
		"cut after bytes":   {CutBytes(1000), func(r result) bool { return r.resp.StatusCode == 200 && r.err != nil && len(r.body) == 1000 }},
		"cut at once":       {CutBytes(0), func(r result) bool { return r.err != nil && r.body == "" }},
		"cut after rows":    {CutRows(5), func(r result) bool { return r.err != nil && strings.Count(r.body, `"Id":`) == 5 }},
		"ends early":        {EndEarly(5), func(r result) bool { return r.err == nil && !parses(r) && strings.Count(r.body, `"Id":`) == 6 }},
		"malformed":         {MalformedJSON(5), func(r result) bool { return r.err == nil && !parses(r) }},
		"login page": {LoginPage(), func(r result) bool {
			return r.resp.StatusCode == 200 && strings.HasPrefix(r.resp.Header.Get("Content-Type"), "text/html") && strings.Contains(r.body, "<html")
		}},
		"login redirect": {LoginRedirect(), func(r result) bool {
			return r.resp.StatusCode == 302 && strings.HasPrefix(r.resp.Header.Get("Location"), "/id/account/login")
		}},
		"redirect":            {Redirect(307, "https://evil.example/"), func(r result) bool { return r.resp.Header.Get("Location") == "https://evil.example/" }},
		"content type":        {ContentType("text/plain"), func(r result) bool { return r.resp.Header.Get("Content-Type") == "text/plain" && parses(r) }},
		"dropped row":         {DropRow(3), func(r result) bool { return parses(r) && count(r) == 19 }},
		"repeated row":        {RepeatRow(), func(r result) bool { return parses(r) && count(r) == 21 }},
		"unexpected property": {UnexpectedProperty(3), func(r result) bool { return parses(r) && strings.Count(r.body, "Unexpected_Property") == 1 }},
		"missing property":    {MissingProperty(3), func(r result) bool { return parses(r) && strings.Count(r.body, `"Active":`) == 19 }},
		"wrong type":          {WrongType(3, "Active"), func(r result) bool { return parses(r) && strings.Count(r.body, `"Active":"yes"`) == 1 }},
		"wrong type, GUID":    {WrongType(3, "Id"), func(r result) bool { return parses(r) && strings.Count(r.body, `"Id":12345`) == 1 }},
		"out of range": {OutOfRange(3, "Scrap_Rate"), func(r result) bool {
			return parses(r) && strings.Count(r.body, `"Scrap_Rate":99.0`) == 1 // decimal(7, 6)
		}},
		"next link loop": {NextLinkLoop(), func(r result) bool {
			var p page
			return json.Unmarshal([]byte(r.body), &p) == nil && strings.HasSuffix(p.Next, strings.TrimPrefix(r.resp.Request.URL.RequestURI(), tableAPI))
		}},
		"next link elsewhere": {NextLinkTo("https://evil.example/x"), func(r result) bool { return strings.Contains(r.body, `"@odata.nextLink":"https://evil.example/x"`) }},
		"truncated gzip": {TruncatedGzip(200), func(r result) bool {
			z, err := gzip.NewReader(strings.NewReader(r.body))
			if err != nil || r.err != nil || len(r.body) != 200 || r.resp.Header.Get("Content-Encoding") != "gzip" {
				return false
			}
			_, err = io.ReadAll(z)
			return errors.Is(err, io.ErrUnexpectedEOF)
		}},
		"two at once": {All(DropRow(1), ContentType("x/y")), func(r result) bool { return count(r) == 19 && r.resp.Header.Get("Content-Type") == "x/y" }},
	} {
		t.Run(name, func(t *testing.T) {
			s, base := products(t, Behavior{})
			s.Inject(Fault{Table: product, Nth: 2, Effect: c.effect})
			options := []string{"$top", "20", "$select", "Id,Scrap_Rate,Active"}
			if status, _ := get(t, base, "Gen_Products", options...); status != 200 {
				t.Errorf("the first request: %d", status)
			}
			var r result
			r.resp, r.body, r.err = exchange(t, base, options...)
			if !c.check(r) {
				t.Errorf("%v %v\n%.300s", r.resp, r.err, r.body)
			}
			if p := rows(t, base, product, options...); len(p.Value) != 20 || p.Next != "" {
				t.Error("the third request is struck, too")
			}
		})
	}
}

func TestFaultOnOtherEndpoints(t *testing.T) {
	s, base := newServer(t, Options{Behavior: Behavior{Count: PathCount}, Faults: []Fault{
		{Endpoint: Discovery, Effect: Status(503, "")},
		{Endpoint: Metadata, Effect: LoginPage()},
		{Endpoint: ServiceDoc, Effect: Status(401, ""), Times: -1},
		{Endpoint: CountPath, Effect: Status(500, "")},
		{Endpoint: Identity, Effect: Status(500, "")},
	}})
	for path, want := range map[string]int{"/tools/auto-discovery": 503, "/id/.well-known/openid-configuration": 500, "/tools/ver": 200} {
		resp, err := http.Get(base + path)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("%s: %d", path, resp.StatusCode)
		}
	}
	if status, body := get(t, base, "$metadata"); status != 200 || !strings.HasPrefix(body, "<!DOCTYPE html>") {
		t.Error(body)
	}
	if status, body := get(t, base, "$metadata"); status != 200 || !strings.HasPrefix(body, "<?xml") {
		t.Error(body)
	}
	for range 3 {
		if status, _ := get(t, base, ""); status != 401 {
			t.Error(status)
		}
	}
	if status, _ := get(t, base, product+"/$count"); status != 500 {
		t.Error(status)
	}
	if status, _ := get(t, base, product, "$top", "1"); status != 200 {
		t.Error(status)
	}
	s.ClearFaults()
	if status, _ := get(t, base, ""); status != 200 {
		t.Error(status)
	}
}

func TestFaultMatchAndTimes(t *testing.T) {
	s, base := products(t, Behavior{})
	s.Inject(Fault{
		Match:  func(r *http.Request) bool { return r.URL.Query().Get("$skip") != "" },
		Nth:    2,
		Times:  2,
		Effect: Status(500, ""),
	})
	var got []int
	for _, skip := range []string{"1", "", "2", "3", "4"} {
		options := []string{"$top", "1"}
		if skip != "" {
			options = append(options, "$skip", skip)
		}
		status, _ := get(t, base, product, options...)
		got = append(got, status)
	}
	if !slices.Equal(got, []int{200, 200, 500, 500, 200}) {
		t.Error(got)
	}
}

func TestForeignRow(t *testing.T) {
	s, base := newServer(t, Options{Rows: map[string]int64{lines: 2000, "Inv_Stores": 4}})
	store := someStore(t, s, 1)
	s.Inject(Fault{Table: lines, Times: -1, Effect: ForeignRow(3)})
	got := rows(t, base, lines, "$filter", "Line_Store_Id eq "+store, "$top", "10", "$select", "Line_Store_Id").column(t, "Line_Store_Id")
	foreign := 0
	for i, v := range got {
		if v != store {
			foreign++
			if i != 3 {
				t.Errorf("the foreign row is number %d", i)
			}
		}
	}
	if foreign != 1 || len(got) != 11 {
		t.Errorf("%d foreign rows of %d", foreign, len(got))
	}
	if p := rows(t, base, lines, "$top", "10"); len(p.Value) != 10 {
		t.Error("a row is foreign without a filter")
	}
}

func TestRepeatRowIsTheLastOfThePageBefore(t *testing.T) {
	s, base := products(t, Behavior{})
	s.Inject(Fault{Nth: 2, Effect: RepeatRow()})
	first := ids(t, base, "$top", "10")
	second := ids(t, base, "$top", "10", "$skip", "10")
	if len(second) != 11 || second[0] != first[9] {
		t.Error(first[9], second)
	}
}

// TestSlowFaults uses synctest's clock: the handler is called without a network.
func TestSlowFaults(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, err := New(Options{Rows: map[string]int64{product: 300}})
		if err != nil {
			t.Fatal(err)
		}
		s.Inject(Fault{Effect: SlowHeaders(3 * time.Minute)})
		s.Inject(Fault{Nth: 2, Effect: Stall(5, 10*time.Minute)})
		for _, want := range []time.Duration{3 * time.Minute, 10 * time.Minute, 0} {
			start := time.Now()
			if w := ask(s, DemoToken, product); w.Code != 200 || !json.Valid(w.Body.Bytes()) {
				t.Error(w.Code)
			}
			if got := time.Since(start); got != want {
				t.Errorf("took %v, not %v", got, want)
			}
		}
		if err := s.SetBehavior("", Behavior{RowsPerSecond: 100}); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		ask(s, DemoToken, product)
		if got := time.Since(start); got < 2*time.Second || got > 3*time.Second {
			t.Errorf("300 rows at 100 a second took %v", got)
		}
	})
}

// TestStallReachesTheClient checks that what was written before the silence has arrived.
func TestStallReachesTheClient(t *testing.T) {
	s, base := products(t, Behavior{})
	s.Inject(Fault{Effect: Stall(5, time.Hour)})
	resp, err := http.DefaultClient.Do(request(t, base, product))
	if err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 1000)
	if _, err := io.ReadFull(resp.Body, buf); err != nil {
		t.Error(err)
	}
	resp.Body.Close() // the handler must end, or the server of the test does not close
}

func TestMidStreamAndRevocation(t *testing.T) {
	s, base := products(t, Behavior{})
	s.Inject(Fault{Effect: MidStream(10, func() {
		s.Revoke(DemoToken)
		if _, err := s.Delete(product, 100); err != nil {
			t.Error(err)
		}
	})})
	if p := rows(t, base, product); len(p.Value) != 300 {
		t.Errorf("the answer that was being streamed has %d rows", len(p.Value))
	}
	if status, _ := get(t, base, product); status != 401 {
		t.Errorf("after the revocation: %d", status)
	}
}

func TestHead(t *testing.T) {
	s, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	r := httptest.NewRequest(http.MethodHead, tableAPI+product, nil)
	r.Header.Set("X-Api-Key", DemoToken)
	s.ServeHTTP(w, r)
	if w.Code != 200 || w.Body.Len() != 0 {
		t.Error(w.Code, w.Body.Len())
	}
}
