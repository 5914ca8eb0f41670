package configs

import (
	"fmt"
	"net"
	"net/mail"
	"time"
)

// Alerts is who is told what.
type Alerts struct {
	Channels   map[string]Channel `yaml:"channels" jsonschema_description:"How people are told, by name. Every alert goes to every channel."`
	Repeat     Duration           `yaml:"repeat" jsonschema:"default=24h" jsonschema_description:"How often what lasts is told again."`
	Thresholds Thresholds         `yaml:"thresholds" jsonschema_description:"From when on an instance's answers are worth an alert."`
}

// Channel is one way to tell people: exactly one of its fields.
type Channel struct {
	Webhook *WebhookChannel `yaml:"webhook" jsonschema_description:"A signed POST of JSON."`
	Chat    *ChatChannel    `yaml:"chat" jsonschema_description:"An incoming webhook as Slack, Mattermost and Teams' workflows have it."`
	Mail    *MailChannel    `yaml:"mail" jsonschema_description:"A mail by SMTP."`
}

// WebhookChannel is a signed POST of JSON.
type WebhookChannel struct {
	URL        string `yaml:"url" jsonschema:"required,format=uri" jsonschema_description:"https://ops.acme.example/tablexport; plain http only for loopback addresses."`
	SecretFile string `yaml:"secret_file" jsonschema:"required" jsonschema_description:"File with the secret that signs: Tablexport-Signature is t=<seconds>,v1=<HMAC-SHA256 of seconds.body>."`
}

// ChatChannel is an incoming webhook of a chat.
type ChatChannel struct {
	URLFile string `yaml:"url_file" jsonschema:"required" jsonschema_description:"File with the webhook's address, which is a secret."`
}

// MailChannel is a mail by SMTP.
type MailChannel struct {
	Server       string   `yaml:"server" jsonschema:"required" jsonschema_description:"smtp.acme.example:587. Encrypted by STARTTLS, or from the start on port 465; plain to loopback addresses only."`
	From         string   `yaml:"from" jsonschema:"required" jsonschema_description:"tablexport@acme.example"`
	To           []string `yaml:"to" jsonschema:"required" jsonschema_description:"Whom to tell."`
	User         string   `yaml:"user" jsonschema_description:"For a login."`
	PasswordFile string   `yaml:"password_file" jsonschema_description:"File with the password of that login."`
}

// Thresholds are limits on an instance's answers.
type Thresholds struct {
	Latency      Duration `yaml:"latency" jsonschema:"default=30s" jsonschema_description:"From a request to its answer's first byte, on average over five minutes."`
	AuthFailures int      `yaml:"auth_failures" jsonschema:"minimum=1,maximum=1000,default=5" jsonschema_description:"Answers 401 and 403 in a minute."`
	ErrorPercent int      `yaml:"error_percent" jsonschema:"minimum=1,maximum=100,default=5" jsonschema_description:"Answers of 5xx, and none at all, of all in five minutes (of 20 at least)."`
	Volume       int      `yaml:"volume_percent" jsonschema:"minimum=101,maximum=10000,default=120" jsonschema_description:"Requests in 24 hours, of the mean of the seven days before."`
	TokenAge     Duration `yaml:"token_age" jsonschema:"default=2160h" jsonschema_description:"Since a token was staged: rotate it (90 days)."`
}

func (v *validator) alerts() {
	for _, name := range sortedKeys(v.Alerts.Channels) {
		key, c := "alerts.channels."+name, v.Alerts.Channels[name]
		v.oneOf(key, "webhook, chat and mail", c.Webhook != nil, c.Chat != nil, c.Mail != nil)
		if c.Webhook != nil && c.Webhook.URL != "" {
			v.address(key+".webhook.url", c.Webhook.URL, "https://ops.acme.example/tablexport", true)
		}
		if c.Mail != nil {
			v.mail(key+".mail", c.Mail)
		}
	}
}

func (v *validator) mail(key string, m *MailChannel) {
	if _, _, err := net.SplitHostPort(m.Server); m.Server != "" && err != nil {
		v.at(key+".server", "not host:port", "write it like smtp.acme.example:587")
	}
	check := func(at, address string) {
		if a, err := mail.ParseAddress(address); err != nil || a.Address != address {
			v.at(at, "not a mail address", "write it like ops@acme.example")
		}
	}
	if m.From != "" {
		check(key+".from", m.From)
	}
	for i, to := range m.To {
		check(fmt.Sprintf("%s.to[%d]", key, i), to)
	}
	if _, written := v.positions[key+".to"]; written && len(m.To) == 0 {
		v.at(key+".to", "the list is empty", "write whom to tell")
	}
	if (m.User == "") != (m.PasswordFile == "") {
		v.at(key, "a login needs both user and password_file", "write both, or none")
	}
}

func (c *Config) alertDefaults() {
	setDefault(&c.Alerts.Repeat, Duration(24*time.Hour))
	t := &c.Alerts.Thresholds
	setDefault(&t.Latency, Duration(30*time.Second))
	setDefault(&t.AuthFailures, 5)
	setDefault(&t.ErrorPercent, 5)
	setDefault(&t.Volume, 120)
	setDefault(&t.TokenAge, Duration(90*24*time.Hour))
}
