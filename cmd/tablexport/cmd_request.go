package main

import (
	"net/url"
	"strings"

	"github.com/spf13/cobra"
)

func tokensRequestCommand(g *globals) *cobra.Command {
	var instance string
	c := &cobra.Command{
		Use:   "request NAME",
		Short: "Print the link with which an administrator approves a new token",
		Long: `Print the link with which an administrator of the instance approves the application and has a new token issued. Started from the vendor's Marketplace, the
token then comes as a signed event to application.redirect_uri; without that, the administrator copies it: tablexport tokens rotate NAME --stage-from stdin`,
		Example: "  tablexport tokens request bi/acme-reader",
		Args:    cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			a, err := g.open()
			if err != nil {
				return err
			}
			defer a.close()
			i, err := a.tokenInstance(args[0], instance)
			if err != nil {
				return err
			}
			link, err := a.requestLink(i.Name)
			if err != nil {
				return err
			}
			return g.emit(map[string]string{"name": args[0], "instance": i.Name, "link": link}, func() { g.printf("%s\n", link) })
		},
	}
	c.Flags().StringVar(&instance, "instance", "", "the instance, if several use the name")
	return c
}

// requestLink is the address where an administrator of an instance approves the application and has a new token issued.
func (a *app) requestLink(instance string) (string, error) {
	c := a.cfg.Instances[instance]
	if c.Application.URI == "" {
		return "", usagef("instance %s has no application in %s; write application: {uri: acme.example/bi} beside its url", instance, a.config)
	}
	q := url.Values{"applicationUri": {c.Application.URI}, "applicationName": {c.Application.Name}, "clientType": {"Confidential"}, "scope": {"read"}}
	if c.Application.RedirectURI != "" {
		q.Set("redirectUri", c.Application.RedirectURI)
	}
	if k := c.Auth.ClientCredentials; k != nil {
		q.Set("requestSecret", "true")
		if len(k.Scopes) > 0 {
			q.Set("scope", strings.Join(k.Scopes, " "))
		}
	} else {
		q.Set("serviceAccess", "referenceToken")
	}
	return strings.TrimSuffix(c.URL, "/") + "/manage/apps/install?" + q.Encode(), nil
}
