package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	sim "github.com/tablexport/tablexport/odata/simulator"
)

// Rows of a megabyte: notes that are so long.
const (
	hugeRows = 2_000
	hugeText = 1 << 20
)

const hugeConfig = `environment: sandbox
secrets: {file: {path: ./secrets.age}}
instances: {sim: {url: %q, token: bench/reader, requests_per_minute: 100000}}
stores: {lake: {file: {path: ./lake}}}
scopes: {all: {unrestricted: true}}
jobs:
  lines:
    instance: sim
    table: Crm_Sales_Order_Lines
    select: [%s]
    scope: all
    store: lake
    path: lines
`

// huge reads rows with notes of a megabyte, in pages that are as long as they happen to be.
func (t tools) huge(ctx context.Context, flags ...string) (wholeRun, error) {
	run := wholeRun{Rows: hugeRows, Columns: len(twenty), Flags: strings.Join(append([]string{"1 MiB a row"}, flags...), " ")}
	server, err := sim.New(sim.Options{Seed: 1, Rows: map[string]int64{table: hugeRows}})
	if err != nil {
		return run, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return run, err
	}
	far := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/"+table) {
			w = &longNotes{ResponseWriter: w}
		}
		server.ServeHTTP(w, r)
	})}
	go func() { _ = far.Serve(l) }() // ends with Close
	defer far.Close()
	dir, err := os.MkdirTemp(t.dir, "huge-")
	if err != nil {
		return run, err
	}
	defer os.RemoveAll(dir)
	config := filepath.Join(dir, "tablexport.yaml")
	if err := os.WriteFile(config, fmt.Appendf(nil, hugeConfig, "http://"+l.Addr().String(), strings.Join(twenty, ", ")), 0o640); err != nil {
		return run, err
	}
	stage := exec.CommandContext(ctx, t.tablexport, "-c", config, "tokens", "stage", "bench/reader", "--activate")
	stage.Stdin, stage.Stderr = strings.NewReader(sim.DemoToken), os.Stderr
	if err := stage.Run(); err != nil {
		return run, fmt.Errorf("stage: %w", err)
	}
	c, err := t.process(ctx, t.tablexport, append([]string{"-c", config, "run", "lines", "--json"}, flags...)...)
	if err != nil {
		return run, err
	}
	var said struct {
		Rows, Bytes int64
		Files       int
	}
	if err := json.Unmarshal(c.out, &said); err != nil {
		return run, err
	}
	if said.Rows != hugeRows || said.Bytes < hugeRows*hugeText/4 {
		return run, fmt.Errorf("%d rows and %d bytes were published", said.Rows, said.Bytes)
	}
	run.Seconds, run.CPUPerM, run.PeakMiB = c.Wall, c.CPU/hugeRows*1e6, c.PeakMiB
	run.OutMiB, run.Files = float64(said.Bytes)/(1<<20), said.Files
	run.print()
	return run, nil
}

// noise is what long notes are cut from: text that compresses as little as text does. It is made when it is asked for:
// a program that does without would be measured with it.
var noise = sync.OnceValue(func() string {
	r, b := rand.New(rand.NewPCG(8, 8)), make([]byte, 3*hugeText)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return base64.StdEncoding.EncodeToString(b)
})

// longNotes puts a megabyte into every text of the column Notes.
type longNotes struct {
	http.ResponseWriter
	held []byte // the end of what came, where it may be the beginning of the name: an answer never ends with one
}

var notes = []byte(`"Notes":"`)

func (l *longNotes) Write(b []byte) (int, error) {
	all := append(l.held, b...)
	for {
		i := bytes.Index(all, notes)
		if i < 0 {
			break
		}
		i += len(notes)
		from := rand.IntN(len(noise()) - hugeText)
		if _, err := l.ResponseWriter.Write(all[:i]); err != nil {
			return 0, err
		}
		if _, err := l.ResponseWriter.Write([]byte(noise()[from : from+hugeText])); err != nil {
			return 0, err
		}
		all = all[i:]
	}
	keep := min(len(all), len(notes)-1)
	for !bytes.HasPrefix(notes, all[len(all)-keep:]) {
		keep--
	}
	if _, err := l.ResponseWriter.Write(all[:len(all)-keep]); err != nil {
		return 0, err
	}
	l.held = append([]byte(nil), all[len(all)-keep:]...)
	return len(b), nil
}

// Unwrap lets the server flush.
func (l *longNotes) Unwrap() http.ResponseWriter { return l.ResponseWriter }
