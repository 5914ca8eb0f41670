package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"
)

// tape stands between the programs and the simulator. The first time an address is asked for it asks the simulator and keeps
// the answer in a file; from then on it sends the file. So every program and every round reads the same bytes, and a server that has
// to invent rows takes no processor time from what is measured.
type tape struct {
	dir, to string // to is the simulator's address

	mu    sync.Mutex
	known map[string]*recording
	order []*recording

	server *http.Server
	url    string
}

type recording struct {
	once sync.Once
	uri  string // path and query
	file string
	kind string // Content-Type
	size int64
	code int
	err  error
}

func newTape(dir, to string) (*tape, error) {
	t := &tape{dir: dir, to: to, known: map[string]*recording{}}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	t.url = "http://" + l.Addr().String()
	t.server = &http.Server{Handler: t, ReadHeaderTimeout: time.Minute}
	go func() { _ = t.server.Serve(l) }() // ends with Close
	return t, nil
}

func (t *tape) close() { _ = t.server.Close() }

// ServeHTTP implements http.Handler.
func (t *tape) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	uri := r.URL.RequestURI()
	t.mu.Lock()
	rec := t.known[uri]
	if rec == nil {
		rec = &recording{uri: uri, file: filepath.Join(t.dir, fmt.Sprintf("answer-%06d.json", len(t.order)))}
		t.known[uri] = rec
		t.order = append(t.order, rec)
	}
	t.mu.Unlock()
	rec.once.Do(func() { rec.err = rec.record(r, t.to) })
	if rec.err != nil {
		http.Error(w, rec.err.Error(), http.StatusBadGateway)
		return
	}
	f, err := os.Open(rec.file)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	defer f.Close()
	w.Header().Set("Content-Type", rec.kind)
	w.Header().Set("Content-Length", strconv.FormatInt(rec.size, 10))
	w.WriteHeader(rec.code)
	_, _ = io.Copy(w, f) // the reader sees what is missing
}

// record asks the simulator, under the name by which the tape was asked.
func (rec *recording) record(r *http.Request, to string) error {
	req, err := http.NewRequestWithContext(context.WithoutCancel(r.Context()), http.MethodGet, to+rec.uri, nil)
	if err != nil {
		return err
	}
	req.Host = r.Host
	req.Header = r.Header.Clone()
	req.Header.Set("Accept-Encoding", "identity")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	f, err := os.Create(rec.file)
	if err != nil {
		return err
	}
	rec.kind, rec.code = resp.Header.Get("Content-Type"), resp.StatusCode
	if rec.size, err = io.Copy(f, resp.Body); err != nil {
		return err
	}
	return f.Close()
}

// pages are the answers that brought rows, in the order in which they were asked for.
func (t *tape) pages(page int) (urls, files []string, bytes int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, rec := range t.order {
		if topOf(rec.uri) == page && rec.code == http.StatusOK {
			urls, files, bytes = append(urls, t.url+rec.uri), append(files, rec.file), bytes+rec.size
		}
	}
	return urls, files, bytes
}
