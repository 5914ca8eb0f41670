package configs

import (
	"net"
	"strconv"
	"strings"
)

// DefaultListen is serve.listen where it is not written.
const DefaultListen = "127.0.0.1:8750"

// Serve is the long-running program: tablexport serve.
type Serve struct {
	Listen string   `yaml:"listen" jsonschema:"default=127.0.0.1:8750" jsonschema_description:"Address of the status pages, health and metrics. Loopback only."`
	Drain  Duration `yaml:"drain" jsonschema:"default=2m" jsonschema_description:"How long runs may go on when the program is told to end. Then they are stopped, and continued at the next start."`
}

func (v *validator) serve() {
	if v.Serve.Listen == "" {
		return
	}
	host, port, err := net.SplitHostPort(v.Serve.Listen)
	n, perr := strconv.Atoi(port)
	switch {
	case err != nil || perr != nil || n < 0 || n > 65535:
		v.at("serve.listen", "not an address to listen at", "write it like 127.0.0.1:8750")
	case !isLoopback(host):
		v.at("serve.listen", "not a loopback address", "write 127.0.0.1:"+port+" or [::1]:"+port+"; for others, put a proxy before it that encrypts and knows who asks")
	}
}

// freshness checks how old a job's dataset may become.
func (v *validator) freshness(key string, j Job) {
	if j.FreshWithin != 0 && j.Schedule == nil && len(j.After) == 0 {
		v.at(key+".fresh_within", "nothing makes the dataset fresh by itself", "write schedule: or after: beside it")
	}
	if strings.TrimSpace(j.Owner) != j.Owner {
		v.at(key+".owner", "spaces around the text", "remove them")
	}
}
