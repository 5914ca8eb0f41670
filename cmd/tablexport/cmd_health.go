package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/spf13/cobra"

	"github.com/tablexport/tablexport/configs"
)

func healthCommand(g *globals) *cobra.Command {
	var live bool
	var timeout time.Duration
	c := &cobra.Command{
		Use:   "health",
		Short: "Ask the serving program whether it is well: for probes of containers",
		Long: `Ask the serving program of this configuration, at serve.listen, whether it is ready; with --live only whether its clock turns.
Exit code 0 says yes. This is for probes where no other program is at hand (Docker's HEALTHCHECK, exec probes of Kubernetes); over
the network ask /readyz and /healthz.`,
		Example: "  tablexport health\n  tablexport health --live -c /etc/tablexport/tablexport.yaml",
		Args:    cobra.NoArgs,
		RunE:    func(c *cobra.Command, _ []string) error { return g.health(c.Context(), live, timeout) },
	}
	c.Flags().BoolVar(&live, "live", false, "ask only whether the clock turns (/healthz)")
	c.Flags().DurationVar(&timeout, "timeout", 5*time.Second, "how long to wait for the answer")
	return c
}

// unwellError is a serving program that is not there, or not well.
type unwellError struct{ text string }

func (e *unwellError) Error() string { return e.text }

func (g *globals) health(ctx context.Context, live bool, timeout time.Duration) error {
	cfg, err := configs.Load(g.config, configChecks)
	if err != nil {
		return err
	}
	address := cmp.Or(cfg.Serve.Listen, configs.DefaultListen)
	path := "/readyz"
	if live {
		path = "/healthz"
	}
	scheme := "http://"
	if cfg.Serve.TLS != nil {
		scheme = "https://"
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	answer, status, err := askHealth(ctx, scheme+here(address)+path)
	switch {
	case err != nil && errors.Is(context.Cause(ctx), context.Canceled):
		return ctx.Err()
	case err != nil:
		return &unwellError{fmt.Sprintf("tablexport serve does not answer at %s: %v", address, err)}
	}
	if err := g.emit(answer, func() {
		for _, c := range answer.Checks {
			verdict := "ok"
			if !c.OK {
				verdict = cmp.Or(c.Text, "not ok")
			}
			g.printf("%-8s %s\n", c.Name, verdict)
		}
	}); err != nil {
		return err
	}
	if status != http.StatusOK {
		return &unwellError{fmt.Sprintf("%s answers %d", path, status)}
	}
	return nil
}

type healthAnswer struct {
	OK     bool `json:"ok"`
	Checks []struct {
		Name string `json:"name"`
		OK   bool   `json:"ok"`
		Text string `json:"text,omitempty"`
	} `json:"checks"`
}

// here is the loopback form of an address that is listened at.
func here(address string) string {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return address
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
		if ip != nil && ip.To4() == nil {
			host = "::1"
		}
	}
	return net.JoinHostPort(host, port)
}

func askHealth(ctx context.Context, url string) (healthAnswer, int, error) {
	var answer healthAnswer
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return answer, 0, err
	}
	// No proxy: it is this machine. The certificate is for the name that others use; nothing secret is sent, and whoever can answer at this
	// port of this machine in the program's place could stop the program as well.
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12}} //nolint:gosec // see above
	defer transport.CloseIdleConnections()
	response, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		var operation *net.OpError
		if errors.As(err, &operation) {
			err = operation
		}
		return answer, 0, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, 64<<10))
	if err == nil {
		err = json.Unmarshal(text, &answer)
	}
	if err != nil {
		return answer, 0, fmt.Errorf("that is no answer of tablexport serve (status %d)", response.StatusCode)
	}
	return answer, response.StatusCode, nil
}
