package odata

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
)

// Site is what discovery found.
type Site struct {
	TableAPI string // base URL of the tables, ends in "/": TableAPI + "Crm_Customers" is a table
	Version  string // of the instance, "" if it does not say
	Database string // "" if it does not say
}

// discovered is the answer of <instance>/tools/auto-discovery, as documented.
type discovered struct {
	DbName   string
	WebSites []struct {
		Type   string
		Status string // Unknown, Working, NotWorking
		Url    string
	}
}

// Site discovers the Table API site, once per client. Discovery is sent without the credential; where it
// leads is then asked with it, if it is on the host that the credential is bound to.
func (s *Session) Site(ctx context.Context) (Site, error) {
	return s.c.site.get(ctx, func() (Site, error) {
		base, database, err := s.discover(ctx)
		if err != nil {
			return Site{}, err
		}
		return Site{TableAPI: base.String(), Version: s.version(ctx), Database: database}, nil
	})
}

// base is the address below which the tables are.
func (s *Session) base(ctx context.Context) (*url.URL, error) {
	site, err := s.Site(ctx)
	if err != nil {
		return nil, err
	}
	return url.Parse(site.TableAPI)
}

func (s *Session) discover(ctx context.Context) (base *url.URL, database string, err error) {
	if s.c.tableAPI != nil {
		base, err = s.probe(ctx, tableAPIBases(s.c.tableAPI))
		return base, "", err
	}
	var doc discovered
	c := call{url: s.c.instance.JoinPath("tools/auto-discovery"), want: wantJSON, open: true}
	err = s.do(ctx, c.document(&doc))
	var status *StatusError
	if errors.As(err, &status) && status.Status == http.StatusNotFound {
		doc, err = discovered{}, nil // an instance behind a proxy that hides its tools
	}
	if err != nil {
		return nil, "", err
	}
	site, err := s.chooseSite(&doc)
	if err != nil {
		return nil, "", err
	}
	base, err = s.probe(ctx, tableAPIBases(site))
	return base, doc.DbName, err
}

// chooseSite finds the Table API among the sites. How its Type is written is not documented, so every
// type that speaks of tables will do, the plainest first; without one it is the documented address.
func (s *Session) chooseSite(doc *discovered) (*url.URL, error) {
	for _, sign := range []string{"tableapi", "table"} {
		for _, w := range doc.WebSites {
			kind := strings.ToLower(strings.NewReplacer(" ", "", "_", "", "-", "", ".", "").Replace(w.Type))
			if !strings.Contains(kind, sign) {
				continue
			}
			if w.Status != "Working" {
				c := call{url: s.c.instance.JoinPath("tools/auto-discovery"), open: true}
				return nil, s.unavailable(&c, "its Table API site is reported as "+sanitize(w.Status, ""), 0, nil)
			}
			return s.siteAddress(w.Url)
		}
	}
	return s.c.instance.JoinPath("tableapi/"), nil
}

func (s *Session) siteAddress(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil {
		return nil, &AddressError{Setting: "table_api", Reason: "the instance gives an unreadable address for its Table API; set `table_api`"}
	}
	u.RawQuery, u.Fragment = "", ""
	if reason := refuseAddress(u, s.c.opts.Sandbox); reason != "" {
		return nil, &AddressError{Setting: "table_api", Reason: "the address that the instance gives for its Table API " + reason}
	}
	if hostOf(u) != s.c.host {
		return nil, &AddressError{Setting: "table_api", Reason: "the instance says that its Table API is at " + hostOf(u) +
			", but the token is bound to " + s.c.host + " and is sent nowhere else; if that host is right, set `table_api: " +
			u.Scheme + "://" + hostOf(u) + u.EscapedPath() + "` and stage a token that is bound to it"}
	}
	return u, nil
}

// tableAPIBases are the addresses at which the tables of a site can be, the documented one first.
func tableAPIBases(site *url.URL) []*url.URL {
	path := strings.ToLower(strings.TrimRight(site.Path, "/"))
	switch {
	case strings.HasSuffix(path, "/odata"):
		return []*url.URL{site.JoinPath("/")}
	case strings.HasSuffix(path, "/tableapi"):
		return []*url.URL{site.JoinPath("odata/")}
	}
	return []*url.URL{site.JoinPath("tableapi/odata/"), site.JoinPath("odata/"), site.JoinPath("/")}
}

// probe asks for the service document where there is a choice. Only "not found" moves on to the next.
func (s *Session) probe(ctx context.Context, bases []*url.URL) (*url.URL, error) {
	if len(bases) == 1 {
		return bases[0], nil
	}
	for i, base := range bases {
		err := s.serviceDocument(ctx, base)
		var (
			status *StatusError
			proto  *ProtocolError
		)
		switch {
		case err == nil, errors.Is(err, ErrForbidden):
			return base, nil
		case errors.As(err, &status) && status.Status == http.StatusNotFound, errors.As(err, &proto):
			if i == len(bases)-1 {
				return nil, &AddressError{Setting: "table_api", Reason: "no Table API was found at " + hostOf(base) + "; set `table_api` to its address", Err: err}
			}
		default:
			return nil, err
		}
	}
	return nil, errors.New("odata: no address to probe")
}

// version asks for the instance's version, which is for people only: failing to get it is no failure.
func (s *Session) version(ctx context.Context) string {
	var text []byte
	c := call{url: s.c.instance.JoinPath("tools/ver"), want: wantText, open: true, tries: 1}
	c.read = func(r io.Reader) (err error) {
		text, err = io.ReadAll(io.LimitReader(r, 1<<10))
		return err
	}
	if err := s.do(ctx, c); err != nil {
		return ""
	}
	return sanitize(strings.TrimSpace(string(text)), "")
}
