package jobs

import (
	"crypto/rand"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
)

// Process names this process in the ledger: host, process id, and a word that tells it from later processes of the same id.
var Process = sync.OnceValue(func() string {
	return hostname() + ":" + strconv.Itoa(os.Getpid()) + ":" + rand.Text()[:8]
})

// Alive reports whether a process that wrote its name into the ledger may still be running. A process of
// another host is taken for alive: only its own host can tell.
func Alive(process string) bool {
	parts := strings.Split(process, ":")
	if process == Process() {
		return true
	}
	if len(parts) != 3 || parts[0] != hostname() {
		return true
	}
	pid, err := strconv.Atoi(parts[1])
	if err != nil || pid == os.Getpid() {
		return false
	}
	return processExists(pid)
}

func hostname() string {
	host, err := os.Hostname()
	if err != nil {
		return "unknown"
	}
	return strings.ReplaceAll(host, ":", "_")
}

// panicSite is the function of this module in which a panic arose, for an error that must not carry the panic's value.
func panicSite() string {
	pcs := make([]uintptr, 64)
	frames := runtime.CallersFrames(pcs[:runtime.Callers(3, pcs)])
	for {
		f, more := frames.Next()
		if strings.Contains(f.Function, "tablexport/") && !strings.Contains(f.Function, ".guarded") {
			return f.Function + ":" + strconv.Itoa(f.Line)
		}
		if !more {
			return "an unknown place"
		}
	}
}
