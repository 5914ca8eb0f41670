package jobs

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

func TestAlive(t *testing.T) {
	host, _, _ := strings.Cut(Process(), ":")
	for name, tt := range map[string]struct {
		process string
		want    bool
	}{
		"this process":                 {Process(), true},
		"an earlier one of its id":     {fmt.Sprintf("%s:%d:before", host, os.Getpid()), false},
		"its parent":                   {fmt.Sprintf("%s:%d:parent", host, os.Getppid()), true},
		"one that cannot be":           {host + ":2147483646:x", false},
		"one of another host":          {"elsewhere-" + host + ":1:x", true},
		"no process id":                {host + ":x:y", false},
		"something else, to be spared": {"what", true},
	} {
		if got := Alive(tt.process); got != tt.want {
			t.Errorf("%s: alive = %v", name, got)
		}
	}
	if first, second := Process(), Process(); first != second || strings.Count(first, ":") != 2 {
		t.Errorf("%q, %q", first, second)
	}
}
