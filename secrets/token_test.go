package secrets_test

import (
	"bytes"
	"context"
	"encoding/gob"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"html/template"
	"log"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"reflect"
	"strings"
	"sync"
	"testing"
	texttemplate "text/template"

	"github.com/goccy/go-yaml"
	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/tablexport/tablexport/secrets"
	"github.com/tablexport/tablexport/secrets/secretstest"
)

// holder has a token in each way a struct can have one.
type holder struct {
	Public  secrets.Token
	Pointer *secrets.Token
	Any     any
	Slice   []secrets.Token
	Map     map[string]secrets.Token
	Func    func()
	private secrets.Token
	inner   struct{ deep *secrets.Token }
}

func hold(t secrets.Token) holder {
	h := holder{Public: t, Pointer: &t, Any: t, Slice: []secrets.Token{t}, Map: map[string]secrets.Token{"k": t}, private: t}
	h.inner.deep = &t
	return h
}

func TestTokenIsNotPrinted(t *testing.T) {
	c := secretstest.NewCanary(t)
	h := hold(c.Token)
	for _, value := range []any{c.Token, &c.Token, h, &h, []any{h}, map[string]holder{"a": h}, errors.Join(fmt.Errorf("%v", c.Token))} {
		for _, verb := range "vTtbcdoOqxXUeEfFgGsp" {
			for _, flag := range []string{"", "+", "#", "-", "0", " ", "+#", "80", ".90"} {
				c.Absent(t, fmt.Sprintf("%%%s%c of %T", flag, verb, value), fmt.Appendf(nil, "%"+flag+string(verb), value))
			}
		}
		c.Absent(t, "Sprintln", []byte(fmt.Sprintln(value)))
	}
	if got := fmt.Sprintf("%s|%v|%#v|%q|%x", c.Token, c.Token, c.Token, c.Token, c.Token); got != strings.Repeat("[redacted]|", 4)+"[redacted]" {
		t.Error(got)
	}
	var zero secrets.Token
	if got := fmt.Sprint(zero, &zero, (*secrets.Token)(nil)); !strings.Contains(got, "[redacted]") || !zero.IsZero() || c.Token.IsZero() {
		t.Error(got)
	}
	defer func() { c.Absent(t, "a recovered panic", fmt.Append(nil, recover())) }()
	panic(h)
}

func TestTokenIsNotLogged(t *testing.T) {
	c := secretstest.NewCanary(t)
	h := hold(c.Token)
	h.Func = nil
	var buf bytes.Buffer
	for _, handler := range []slog.Handler{
		slog.NewTextHandler(&buf, &slog.HandlerOptions{Level: slog.LevelDebug}), slog.NewJSONHandler(&buf, nil),
	} {
		l := slog.New(handler).With("token", c.Token)
		l.Info("m", "token", c.Token, "pointer", &c.Token, "holder", h, "group", slog.GroupValue(slog.Any("t", c.Token)), "err", fmt.Errorf("x: %v", c.Token))
	}
	log.New(&buf, "", 0).Print(c.Token, h, &h)
	c.Absent(t, "log", buf.Bytes())
	if !strings.Contains(buf.String(), "[redacted]") {
		t.Error(buf.String())
	}
}

func TestTokenIsNotMarshalled(t *testing.T) {
	c := secretstest.NewCanary(t)
	type document struct {
		Token   secrets.Token            `json:"token" yaml:"token" xml:"token"`
		Pointer *secrets.Token           `json:"pointer" yaml:"pointer" xml:"pointer,attr"`
		Map     map[string]secrets.Token `json:"map" yaml:"map" xml:"-"`
	}
	d := document{c.Token, &c.Token, map[string]secrets.Token{"k": c.Token}}
	for name, marshal := range map[string]func() ([]byte, error){
		"json":        func() ([]byte, error) { return json.Marshal(d) },
		"json indent": func() ([]byte, error) { return json.MarshalIndent(&d, "", " ") },
		"yaml":        func() ([]byte, error) { return yaml.Marshal(d) },
		"xml":         func() ([]byte, error) { return xml.Marshal(d) },
		"text":        c.Token.MarshalText,
		"template": func() ([]byte, error) {
			var b bytes.Buffer
			err := texttemplate.Must(texttemplate.New("").Parse(`{{.Token}} {{.Pointer}} {{printf "%s" .Token}} {{.}}`)).Execute(&b, d)
			return b.Bytes(), err
		},
		"html": func() ([]byte, error) {
			var b bytes.Buffer
			err := template.Must(template.New("").Parse(`<a href="{{.Token}}">{{.Token}}</a><script>x = {{.Token}}</script>`)).Execute(&b, d)
			return b.Bytes(), err
		},
	} {
		out, err := marshal()
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		c.Absent(t, name, out)
		if !bytes.Contains(out, []byte("redacted")) {
			t.Errorf("%s: %s", name, out)
		}
	}
	var b bytes.Buffer
	if err := gob.NewEncoder(&b).Encode(d); err == nil {
		t.Error("gob took it")
	}
	c.Absent(t, "gob", b.Bytes())
	if _, err := c.Token.MarshalBinary(); err == nil {
		t.Error("binary took it")
	}
	for name, err := range map[string]error{
		"json": json.Unmarshal([]byte(`{"token":"enrt_x"}`), &d),
		"yaml": yaml.Unmarshal([]byte("token: enrt_x\n"), &d),
		"xml":  xml.Unmarshal([]byte("<d><token>enrt_x</token></d>"), &d),
		"gob":  d.Token.GobDecode(nil),
		"bin":  d.Token.UnmarshalBinary(nil),
	} {
		if err == nil {
			t.Errorf("%s: a token was read from a document", name)
		}
	}
	if !d.Token.Equal(c.Token) {
		t.Error("the token changed")
	}
}

// Reflection finds no bytes, however deep it goes.
func TestTokenIsNotReflected(t *testing.T) {
	c := secretstest.NewCanary(t)
	h := hold(c.Token)
	var visit func(v reflect.Value, depth int)
	visit = func(v reflect.Value, depth int) {
		if depth > 20 || !v.IsValid() {
			return
		}
		switch v.Kind() {
		case reflect.Pointer, reflect.Interface:
			visit(v.Elem(), depth+1)
		case reflect.Struct:
			for i := range v.NumField() {
				visit(v.Field(i), depth+1)
			}
		case reflect.Slice, reflect.Array:
			for i := range v.Len() {
				visit(v.Index(i), depth+1)
			}
		case reflect.Map:
			for _, k := range v.MapKeys() {
				visit(v.MapIndex(k), depth+1)
			}
		case reflect.String:
			c.Absent(t, "reflection", []byte(v.String()))
		case reflect.Uint8:
			t.Error("reflection reaches bytes")
		}
	}
	visit(reflect.ValueOf(&h), 0)
	other := hold(secretstest.NewCanary(t).Token)
	c.Absent(t, "cmp", []byte(cmp.Diff(h, other, cmp.AllowUnexported(holder{}, struct{ deep *secrets.Token }{}), cmp.Comparer(func(a, b func()) bool { return false }), cmp.Comparer(func(a, b secrets.Token) bool { return a.Equal(b) }))))
}

// A crash of the process prints no token.
func TestTokenIsNotInACrash(t *testing.T) {
	if value := os.Getenv("SECRETS_TEST_CRASH"); value != "" {
		_ = os.Unsetenv("SECRETS_TEST_CRASH")
		token, _ := secrets.NewToken([]byte(value))
		h := hold(token)
		switch os.Getenv("SECRETS_TEST_KIND") {
		case "struct":
			panic(h)
		case "pointer":
			panic(&h)
		case "error":
			panic(fmt.Errorf("%v %+v", token, h))
		}
		var nothing *holder
		crash(token, nothing)
	}
	for _, kind := range []string{"struct", "pointer", "error", "nil"} {
		c := secretstest.NewCanary(t)
		cmd := exec.Command(os.Args[0], "-test.run=^TestTokenIsNotInACrash$")
		cmd.Env = append(os.Environ(), "GOTRACEBACK=all", "SECRETS_TEST_KIND="+kind, "SECRETS_TEST_CRASH="+c.Value())
		out, err := cmd.CombinedOutput()
		if err == nil || !bytes.Contains(out, []byte("goroutine")) {
			t.Fatalf("%s: it did not crash: %v\n%s", kind, err, out)
		}
		c.Absent(t, "crash output of "+kind, out)
	}
}

//go:noinline
func crash(t secrets.Token, h *holder) { h.Public = t }

func TestNewTokenRefuses(t *testing.T) {
	for _, value := range []string{"", " ", "a b", "a\n", "\ta", "a\x00", "a\x7f", "Bearer x", "\xc3\xa4", "a\u200bb", strings.Repeat("x", 8<<10+1)} {
		token, err := secrets.NewToken([]byte(value))
		if !errors.Is(err, secrets.ErrBadToken) || !token.IsZero() {
			t.Errorf("%.20q: %v", value, err)
		}
		if len(value) > 3 && len(value) < 100 && strings.Contains(fmt.Sprint(err), value) && value != "Bearer x" {
			t.Errorf("%q is in its error: %v", value, err)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		value := rapid.SliceOfN(rapid.ByteRange('!', '~'), 1, 200).Draw(t, "value")
		token, err := secrets.NewToken(value)
		if err != nil {
			t.Fatal(err)
		}
		want := string(value)
		clear(value) // it is a copy
		secrets.Reveal(token, func(got []byte) {
			if string(got) != want {
				t.Fatal("another value")
			}
		})
	})
}

func TestReadToken(t *testing.T) {
	for text, want := range map[string]string{"enrt_x": "enrt_x", "enrt_x\n": "enrt_x", "enrt_x\r\n": "enrt_x"} {
		token, err := secrets.ReadToken(strings.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		secrets.Reveal(token, func(got []byte) {
			if string(got) != want {
				t.Errorf("%q: %q", text, got)
			}
		})
	}
	longest := strings.Repeat("x", 8<<10)
	if _, err := secrets.ReadToken(strings.NewReader(longest + "\r\n")); err != nil {
		t.Error(err)
	}
	broken := errors.New("broken")
	for text, want := range map[string]error{"": secrets.ErrBadToken, "\n": secrets.ErrBadToken, "a\n\n": secrets.ErrBadToken, "a\nb": secrets.ErrBadToken, longest + "x": secrets.ErrBadToken, longest + longest: secrets.ErrBadToken} {
		if _, err := secrets.ReadToken(strings.NewReader(text)); !errors.Is(err, want) {
			t.Errorf("%.10q: %v", text, err)
		}
	}
	if _, err := secrets.ReadToken(readerFunc(func([]byte) (int, error) { return 0, broken })); !errors.Is(err, broken) {
		t.Error(err)
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func TestFingerprint(t *testing.T) {
	// Another implementation's answer: printf abc | openssl dgst -sha256 -hmac key
	token, err := secrets.NewToken([]byte("abc"))
	if err != nil {
		t.Fatal(err)
	}
	if got := secrets.Fingerprint([]byte("key"), token); got != "fp:9c196e32dc01" {
		t.Error(got)
	}
	if secrets.Fingerprint([]byte("other"), token) == secrets.Fingerprint([]byte("key"), token) {
		t.Error("the key does not matter")
	}
	if secrets.Fingerprint([]byte("key"), secrets.Token{}) != "" {
		t.Error("the zero token has a fingerprint")
	}
}

func TestEqual(t *testing.T) {
	a, b := secretstest.NewCanary(t), secretstest.NewCanary(t)
	same, _ := secrets.NewToken([]byte(a.Value()))
	if !a.Token.Equal(same) || a.Token.Equal(b.Token) || a.Token.Equal(secrets.Token{}) || !(secrets.Token{}).Equal(secrets.Token{}) {
		t.Error("Equal is wrong")
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 200 {
				_, _ = a.Token.Equal(same), same.Equal(a.Token)
			}
		})
	}
	wg.Wait()
}

// What net/http says of a request that failed holds its address, not its headers.
func TestTokenIsNotInAURLError(t *testing.T) {
	c := secretstest.NewCanary(t)
	k, _ := keeper(t, secrets.Sandbox)
	l, err := k.Trial(t.Context(), secrets.LeaseRequest{Name: "bi/x", Instance: "acme", Host: "127.0.0.1:1", Purpose: "stage"}, c.Token)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for range 2 { // refused by the port, then canceled
		req, _ := http.NewRequestWithContext(ctx, http.MethodGet, "http://127.0.0.1:1/api?x=y", nil)
		if err := l.Authorize(t.Context(), req); err != nil {
			t.Fatal(err)
		}
		_, err = http.DefaultClient.Do(req)
		var wrapped *url.Error
		if !errors.As(err, &wrapped) {
			t.Fatalf("err = %v", err)
		}
		c.AbsentFromError(t, "url.Error", err)
		cancel()
	}
}
