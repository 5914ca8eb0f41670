package simulator

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tablexport/tablexport/odata/edm"
)

// DemoToken is the service access token that a server accepts when Options.Tokens is empty.
const DemoToken = "enrt_simulator-demo-token"

// Options says what a server serves. The zero value is a small company that behaves.
type Options struct {
	Seed  uint64
	Model *edm.Model // nil = edm.Embedded()

	// Rows is how many rows each table has at the start; nil = DefaultRows(). Tables that are not named are not
	// served, except the owners of those that are, which get a fitting size.
	Rows map[string]int64

	Database string  // name in discovery ("SIMULATOR")
	Version  string  // answer of /tools/ver ("26.1.0.0")
	Tokens   []Token // service access tokens; none = one: DemoToken, scope read
	Apps     []App   // applications that may ask for client credentials

	Licenses        int           // sessions at the same time; 0 = no limit
	NoLicenseStatus int           // answer when no license is free; 0 = 503
	Concurrency     int           // requests of the Table API at the same time; 0 = 2
	Queue           int           // requests that may wait behind them; 0 = 5, negative = none
	RetryAfter      time.Duration // sent with 429, in whole seconds; 0 = not sent

	Behavior   Behavior            // of every table
	Tables     map[string]Behavior // of single tables, in place of Behavior
	NoMetadata bool                // $metadata answers 404
	Plain      bool                // Accept-Encoding is not heeded
	Zstd       bool                // answers come in zstd where it is accepted, in gzip elsewhere

	// First and Last are the first and the last date of the documents of the first load; zero = 2022-01-01 and 2026-10-31.
	First, Last time.Time
	WallClock   bool // changes are stamped with this process's time instead of the simulated one (see SetNow)

	Faults    []Fault
	OnRequest func(RequestInfo) // called before a request to the Table API is evaluated; may change rows
	Logger    *slog.Logger      // nil = no log
}

// DefaultRows returns the tables that a server serves unless told otherwise: the sales chain, a view without a key, a
// table with a composite key, and the tables that audits of tokens and sessions read.
func DefaultRows() map[string]int64 {
	return map[string]int64{
		"Gen_Enterprise_Companies": 3, "Inv_Stores": 8, "Gen_Products": 500, "Crm_Customers": 800, "Gen_Parties": 1000,
		"Gen_Documents": 5000, "Crm_Sales_Orders": 4000, "Crm_Sales_Order_Lines": 20_000,
		"Inv_Current_Balances": 1500, "Gen_Document_Links": 1000, "Acc_Accounts": 300, "Gen_Property_Values": 3000,
		"Sec_Access_Tokens": 12, "Sec_Trusted_Applications": 5, "Dmv_Current_Sessions": 4, "Dmv_Licenses": 6,
	}
}

// OrderBy is what a server does with $orderby.
type OrderBy uint8

// The treatments of $orderby.
const (
	AcceptOrderBy OrderBy = iota // rows come in the order asked for
	RefuseOrderBy                // 400
	IgnoreOrderBy                // accepted, without any effect
)

// Natural is the order of rows when the request names none (or is ignored).
type Natural uint8

// The natural orders.
const (
	ByKey    Natural = iota // ascending by key
	Shuffled                // another order at every request
	ByColumn                // ascending by Behavior.NaturalColumn, equal values in changing order
)

// Count is which forms of $count a server has.
type Count uint8

// The forms of $count. They can be combined.
const (
	InlineCount Count = 1 << iota // $count=true → @odata.count
	PathCount                     // <Table>/$count
)

// NextLink is paging by the server.
type NextLink struct {
	PageSize   int64 // rows of a page; 0 = the server does not page
	BySkip     bool  // the link holds $skip; else an opaque $skiptoken
	Relative   bool  // the link is relative to the address of the Table API
	TopIsTotal bool  // $top limits the whole chain of pages; else each page
}

// Behavior is how a server, or one of its tables, treats requests. The zero value accepts $orderby, answers in key order,
// and has neither $count nor next links.
type Behavior struct {
	OrderBy       OrderBy
	Natural       Natural
	NaturalColumn string
	MaxRows       int64 // answers end after so many rows, without a word; 0 = they don't
	NextLink      NextLink
	Count         Count
	IgnoreTop     bool // $top is accepted and has no effect
	Fractions     bool // date-time literals in filters may have a fraction of a second, which is not documented; else 400

	Offsets           bool  // datetimes are shown with changing offsets (+02:00) instead of Z
	TrimZeros         bool  // decimals without trailing zeros
	Exponents         bool  // decimals as 1234e-2
	NumbersAsStrings  bool  // decimals and 64-bit integers as strings (IEEE754Compatible=true)
	OmitNulls         bool  // properties that are null are left out
	ShuffleProperties bool  // every row has its properties in another order
	Whitespace        bool  // blanks and line ends wherever JSON allows them
	RowsPerSecond     int64 // streams no faster than this; 0 = as fast as it can
}

// RequestInfo describes a request to the Table API that is about to be evaluated.
type RequestInfo struct {
	Endpoint Endpoint
	Table    string     // "" for the service document and $metadata
	N        int        // which request to this endpoint of this table, from 1
	Query    url.Values // must not be changed
}

// Endpoint is a part of the instance.
type Endpoint string

// The endpoints.
const (
	Data        Endpoint = "data"      // <Table>
	CountPath   Endpoint = "count"     // <Table>/$count
	Metadata    Endpoint = "metadata"  // $metadata
	ServiceDoc  Endpoint = "service"   // the service document
	Discovery   Endpoint = "discovery" // /tools/auto-discovery
	VersionPath Endpoint = "version"   // /tools/ver
	Identity    Endpoint = "identity"  // /id/…
)

// Server is a simulated instance. Its methods may be called while it serves.
type Server struct {
	opts    Options
	catalog *catalog
	gate    *gate
	auth    *authority
	log     *slog.Logger
	salt    atomic.Uint64 // counts requests, for orders that change

	mu       sync.Mutex // held for what follows, never while rows are written
	now      *world
	today    int64    // the clock, in ticks; 0 = that of this process
	lived    int64    // the latest day that happened, in days since 0001-01-01
	past     []*world // from the oldest mark on; empty without a mark
	marked   bool
	rolls    uint64 // mutations so far, seeds the next
	behave   Behavior
	tables   map[string]Behavior
	faults   []*armed
	before   []scripted
	requests map[requestKey]int
	last     map[string]rowRef // the last row of the latest answer, by table
	stats    Stats
}

type requestKey struct {
	endpoint Endpoint
	table    string
}

type scripted struct {
	key requestKey
	n   int
	do  func()
}

// New builds a server. It fails for tables that the model does not have, and for behaviours that cannot be.
func New(opts Options) (*Server, error) {
	if opts.Model == nil {
		opts.Model = edm.Embedded()
	}
	if opts.Rows == nil {
		opts.Rows = DefaultRows()
	}
	if len(opts.Tokens) == 0 {
		opts.Tokens = []Token{{Value: DemoToken, Name: "demo", Scopes: []string{"read"}}}
	}
	opts.Database = cmp.Or(opts.Database, "SIMULATOR")
	opts.Version = cmp.Or(opts.Version, "26.1.0.0")
	opts.NoLicenseStatus = cmp.Or(opts.NoLicenseStatus, http.StatusServiceUnavailable)
	opts.Concurrency = cmp.Or(opts.Concurrency, 2)
	opts.Queue = cmp.Or(opts.Queue, 5)
	if opts.First.IsZero() {
		opts.First = time.Date(2022, 1, 1, 0, 0, 0, 0, time.UTC)
	}
	if opts.Last.IsZero() {
		opts.Last = time.Date(2026, 10, 31, 0, 0, 0, 0, time.UTC)
	}
	if opts.Last.Before(opts.First) {
		return nil, errors.New("simulator: Options.Last is before Options.First")
	}
	c, err := newCatalog(opts.Model, opts.Seed, opts.Rows, ticksOf(opts.First)/ticksPerDay, ticksOf(opts.Last)/ticksPerDay)
	if err != nil {
		return nil, err
	}
	s := &Server{
		opts: opts, catalog: c, gate: newGate(opts.Concurrency, max(opts.Queue, 0)), log: opts.Logger,
		now: newWorld(c), behave: opts.Behavior, tables: map[string]Behavior{},
		requests: map[requestKey]int{}, last: map[string]rowRef{},
	}
	s.lived = c.lastDay
	if !opts.WallClock {
		s.today = (c.lastDay+1)*ticksPerDay + 6*3600*ticksPerSecond
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	for name, b := range opts.Tables {
		if err := s.SetBehavior(name, b); err != nil {
			return nil, err
		}
	}
	for _, f := range opts.Faults {
		s.Inject(f)
	}
	if s.auth, err = newAuthority(s); err != nil {
		return nil, err
	}
	return s, nil
}

// Tables returns the names of the tables that are served, sorted.
func (s *Server) Tables() []string { return slices.Sorted(maps.Keys(s.catalog.served)) }

// SetBehavior changes how a table behaves from the next request on, or with an empty name how every table behaves
// that has no behaviour of its own.
func (s *Server) SetBehavior(tableName string, b Behavior) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if tableName == "" {
		s.behave = b
		return nil
	}
	t, err := s.served(tableName)
	if err != nil {
		return err
	}
	if b.Natural == ByColumn && t.column(b.NaturalColumn) == nil {
		return fmt.Errorf("simulator: table %s has no column %q to be ordered by", tableName, b.NaturalColumn)
	}
	s.tables[tableName] = b
	return nil
}

func (s *Server) behaviorOf(tableName string) Behavior {
	s.mu.Lock()
	defer s.mu.Unlock()
	if b, ok := s.tables[tableName]; ok {
		return b
	}
	return s.behave
}

func (s *Server) served(name string) (*table, error) {
	if t, ok := s.catalog.tables[name]; ok && s.catalog.served[name] {
		return t, nil
	}
	return nil, fmt.Errorf("simulator: table %q is not served; name it in Options.Rows", name)
}

// Before arranges that do is called once, before the n-th data request (from 1) to the table is evaluated: between two
// pages of a scan, with n > 1.
func (s *Server) Before(tableName string, n int, do func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.before = append(s.before, scripted{key: requestKey{Data, tableName}, n: n, do: do})
}

// Stats is what a server has seen so far.
type Stats struct {
	Requests       int64 // to the Table API, refused ones included
	DataRequests   int64 // of these, for rows
	Rows           int64 // rows written
	Bytes          int64 // bytes of JSON written, before compression
	Unauthorized   int64 // 401
	Forbidden      int64 // 403
	Refused        int64 // 400
	TooMany        int64 // 429 by the gate
	NoLicense      int64 // sessions that could not be opened
	Sessions       int   // open now: licenses in use
	SessionsOpened int64
	MaxInFlight    int // most requests evaluated at the same time
}

// Stats returns the counts.
func (s *Server) Stats() Stats {
	s.mu.Lock()
	st := s.stats
	s.mu.Unlock()
	st.Sessions, st.SessionsOpened = s.auth.sessionCounts()
	st.MaxInFlight, st.TooMany = s.gate.counts()
	return st
}

func (s *Server) count(add func(*Stats)) {
	s.mu.Lock()
	add(&s.stats)
	s.mu.Unlock()
}

const tableAPI = "/tableapi/odata/"

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch path := r.URL.Path; {
	case path == "/tools/auto-discovery":
		s.site(w, r, Discovery, s.discovery)
	case path == "/tools/ver":
		s.site(w, r, VersionPath, s.version)
	case strings.HasPrefix(path, "/id/"):
		s.site(w, r, Identity, s.auth.identity)
	case strings.HasPrefix(path, tableAPI) || path+"/" == tableAPI:
		s.tableAPI(w, r, strings.TrimPrefix(path+"/", tableAPI))
	default:
		writeError(w, http.StatusNotFound, "there is nothing at this address")
	}
}

// site answers a request outside the Table API: no token, no limit, but faults.
func (s *Server) site(w http.ResponseWriter, r *http.Request, e Endpoint, answer http.HandlerFunc) {
	m := s.arrive(e, "", r)
	if m.instead(w, r) {
		return
	}
	answer(w, r)
}

// tableAPI answers a request to the Table API; path ends in "/".
func (s *Server) tableAPI(w http.ResponseWriter, r *http.Request, path string) {
	s.count(func(st *Stats) { st.Requests++ })
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET")
		writeError(w, http.StatusMethodNotAllowed, "the Table API is read-only")
		return
	}
	who, ok := s.auth.admit(w, r)
	if !ok {
		return
	}
	leave, err := s.gate.enter(r.Context())
	if err != nil {
		if errors.Is(err, errTooMany) {
			if s.opts.RetryAfter > 0 {
				w.Header().Set("Retry-After", fmt.Sprint(int64((s.opts.RetryAfter+time.Second-1)/time.Second)))
			}
			writeError(w, http.StatusTooManyRequests, "the limit GlobalConcurrentRequests of the Table API is exceeded")
		}
		return // otherwise the client has gone
	}
	defer leave()

	path = strings.TrimSuffix(path, "/")
	name, rest, _ := strings.Cut(path, "/")
	switch {
	case path == "":
		s.site(w, r, ServiceDoc, s.serviceDocument)
	case path == "$metadata":
		s.site(w, r, Metadata, s.metadata)
	case rest == "" || rest == "$count":
		s.rows(w, r, who, name, rest == "$count")
	default:
		writeError(w, http.StatusNotFound, "there is nothing at this address")
	}
}

// rows answers a request for a table's rows or their number.
func (s *Server) rows(w http.ResponseWriter, r *http.Request, who *Token, name string, onlyCount bool) {
	t, err := s.served(name)
	if err != nil {
		writeError(w, http.StatusNotFound, "the table does not exist")
		return
	}
	if !who.mayRead(name) {
		s.count(func(st *Stats) { st.Forbidden++ })
		writeError(w, http.StatusForbidden, "the user has no permission to read the table")
		return
	}
	endpoint := Data
	if onlyCount {
		endpoint = CountPath
	} else {
		s.count(func(st *Stats) { st.DataRequests++ })
	}
	m := s.arrive(endpoint, name, r)
	if m.instead(w, r) {
		return
	}
	q, err := s.parse(r, t, who, s.behaviorOf(name), onlyCount)
	var no *refusal
	switch {
	case errors.As(err, &no):
		s.count(func(st *Stats) { st.Refused++ })
		writeError(w, http.StatusBadRequest, no.message)
	case err != nil:
		writeError(w, http.StatusNotFound, err.Error())
	case onlyCount:
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		fmt.Fprint(w, q.total())
	default:
		s.stream(w, r, q, m)
	}
}

// arrive counts the request, runs what was scripted before it, and returns the faults that strike it.
func (s *Server) arrive(e Endpoint, tableName string, r *http.Request) *mischief {
	key := requestKey{e, tableName}
	s.mu.Lock()
	s.requests[key]++
	n := s.requests[key]
	var run []func()
	for _, b := range s.before {
		if b.key == key && b.n == n {
			run = append(run, b.do)
		}
	}
	m := newMischief()
	for _, f := range s.faults {
		if f.strikes(e, tableName, r) {
			f.Effect.apply(m)
		}
	}
	s.mu.Unlock()
	for _, do := range run {
		do()
	}
	if s.opts.OnRequest != nil && (e == Data || e == CountPath || e == Metadata || e == ServiceDoc) {
		s.opts.OnRequest(RequestInfo{Endpoint: e, Table: tableName, N: n, Query: r.URL.Query()})
	}
	s.log.Debug("request", "endpoint", string(e), "table", tableName, "n", n)
	return m
}

// Start serves plain HTTP on addr ("127.0.0.1:8080", port 0 for any) until stop is called. Only loopback addresses
// are accepted: the rows are invented, but nobody on the network should take this for an instance.
func (s *Server) Start(addr string) (address string, stop func(context.Context) error, err error) {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return "", nil, fmt.Errorf("simulator: the address %q is not host:port: %w", addr, err)
	}
	if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return "", nil, fmt.Errorf("simulator: the address %q is not a loopback address; use 127.0.0.1", addr)
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return "", nil, fmt.Errorf("simulator: %w", err)
	}
	srv := &http.Server{Handler: s, ReadHeaderTimeout: 10 * time.Second}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	stop = func(ctx context.Context) error {
		err := srv.Shutdown(ctx)
		if err != nil {
			err = errors.Join(err, srv.Close())
		}
		if served := <-done; !errors.Is(served, http.ErrServerClosed) {
			err = errors.Join(err, served)
		}
		return err
	}
	return "http://" + l.Addr().String(), stop, nil
}
