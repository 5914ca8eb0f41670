package configs

import (
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// maxSize bounds the file, maxDepth its nesting, aliases included.
const (
	maxSize  = 4 << 20
	maxDepth = 32
	maxNodes = 200_000 // values visited, so that aliases of aliases cannot multiply without end
)

// decoder lays a YAML document over a struct and collects every problem on the way. A library's
// strict mode stops at the first one, and knows no position for what is missing.
type decoder struct {
	file      string
	anchors   map[string]ast.Node
	problems  Problems
	positions map[string]Position
	texts     map[string]string
	nodes     int
}

func (d *decoder) problem(at Position, key, text, hint string) {
	d.problems = append(d.problems, &Problem{File: d.file, Position: at, Key: key, Text: text, Hint: hint})
}

// position is where a person would point: for a mapping, its first key (the library's token is the colon).
func position(n ast.Node) Position {
	switch m := n.(type) {
	case *ast.MappingNode:
		if !m.IsFlowStyle && len(m.Values) > 0 {
			return position(m.Values[0])
		}
	case *ast.MappingValueNode:
		return position(m.Key)
	}
	if t := n.GetToken(); t != nil && t.Position != nil {
		return Position{t.Position.Line, t.Position.Column}
	}
	return Position{1, 1}
}

// decode reads data into into, a pointer to a struct.
func (d *decoder) decode(data []byte, into any) {
	if len(data) > maxSize {
		d.problem(Position{1, 1}, "", fmt.Sprintf("the file is larger than %d MiB", maxSize>>20), "is it the right file?")
		return
	}
	file, err := parser.ParseBytes(data, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		at, text := Position{1, 1}, "not valid YAML"
		// The library's error text quotes the source; only its message is used, so that nothing of the file's
		// content (a pasted secret, say) is printed.
		var syntax yaml.Error
		if errors.As(err, &syntax) {
			text = "not valid YAML: " + syntax.GetMessage()
			if t := syntax.GetToken(); t != nil && t.Position != nil {
				at = Position{t.Position.Line, t.Position.Column}
			}
		}
		d.problem(at, "", text, "check the indentation and the quotes around this place")
		return
	}
	var body ast.Node
	for _, doc := range file.Docs {
		if doc == nil || doc.Body == nil {
			continue
		}
		if body != nil {
			d.problem(position(doc.Body), "", "a second YAML document", "keep everything in one document, without ---")
			return
		}
		body = doc.Body
	}
	if body == nil {
		d.problem(Position{1, 1}, "", "the file is empty", "tablexport init writes an example")
		return
	}
	d.value(body, reflect.ValueOf(into).Elem(), "", "", 0)
}

// value decodes n into v. tag is the field's jsonschema tag, which also drives the JSON Schema: one source for both.
func (d *decoder) value(n ast.Node, v reflect.Value, key, tag string, depth int) {
	d.nodes++
	if depth > maxDepth || d.nodes > maxNodes {
		if d.nodes <= maxNodes+1 {
			d.problem(position(n), key, "too deeply nested or too large", "")
			d.nodes = maxNodes + 2
		}
		return
	}
	switch n := n.(type) {
	case *ast.AnchorNode:
		if d.anchors == nil {
			d.anchors = map[string]ast.Node{}
		}
		d.value(n.Value, v, key, tag, depth+1)
		d.anchors[n.Name.GetToken().Value] = n.Value // known only behind itself: no cycles
		return
	case *ast.AliasNode:
		target, ok := d.anchors[n.Value.GetToken().Value]
		if !ok {
			d.problem(position(n), key, fmt.Sprintf("no anchor &%s stands before this", n.Value.GetToken().Value), "")
			return
		}
		d.value(target, v, key, tag, depth+1)
		return
	case *ast.TagNode:
		d.problem(position(n), key, "YAML tags are not used here", "write the plain value")
		return
	}
	d.positions[key] = position(n)
	if _, null := n.(*ast.NullNode); null {
		if v.Kind() == reflect.Map || v.Kind() == reflect.Slice {
			return // "jobs:" with nothing below it: empty
		}
		d.problem(position(n), key, "no value", "write "+want(v.Type(), tag)+", or leave the key out")
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		p := reflect.New(v.Type().Elem())
		d.value(n, p.Elem(), key, tag, depth)
		v.Set(p)
	case reflect.Struct:
		d.structure(n, v, key, depth)
	case reflect.Map:
		d.mapping(n, v, key, depth)
	case reflect.Slice:
		d.sequence(n, v, key, depth)
	default:
		d.scalar(n, v, key, tag)
	}
}

// entries returns the key-value pairs of a mapping, and reports other nodes and repeated keys.
func (d *decoder) entries(n ast.Node, key string) []*ast.MappingValueNode {
	var values []*ast.MappingValueNode
	switch n := n.(type) {
	case *ast.MappingNode:
		values = n.Values
	case *ast.MappingValueNode:
		values = []*ast.MappingValueNode{n}
	default:
		d.problem(position(n), key, "found "+kind(n)+" where keys are expected", "write key: value lines below "+last(key))
		return nil
	}
	seen := map[string]bool{}
	unique := values[:0:0]
	for _, e := range values {
		if e.Key.IsMergeKey() {
			d.problem(position(e.Key), key, "merge keys (<<) are not used here", "write the keys out")
			continue
		}
		name := keyText(e.Key)
		if seen[name] {
			d.problem(position(e.Key), join(key, name), "the key stands twice", "remove one of the two")
			continue
		}
		seen[name] = true
		unique = append(unique, e)
	}
	return unique
}

func (d *decoder) structure(n ast.Node, v reflect.Value, key string, depth int) {
	fields := map[string]reflect.StructField{}
	var names []string
	for _, f := range reflect.VisibleFields(v.Type()) {
		if name := f.Tag.Get("yaml"); name != "" && name != "-" {
			fields[name] = f
			names = append(names, name)
		}
	}
	found := map[string]bool{}
	entries := d.entries(n, key)
	for _, e := range entries {
		name := keyText(e.Key)
		f, ok := fields[name]
		if !ok {
			d.problem(position(e.Key), join(key, name), "unknown key", suggestion(name, names))
			continue
		}
		found[name] = true
		d.value(e.Value, v.FieldByIndex(f.Index), join(key, name), f.Tag.Get("jsonschema"), depth+1)
	}
	if entries == nil && len(d.problems) > 0 && d.problems[len(d.problems)-1].Key == key {
		return // not a mapping at all: said already
	}
	for _, name := range names {
		if !found[name] && hasTag(fields[name].Tag.Get("jsonschema"), "required") {
			d.problem(position(n), key, fmt.Sprintf("the key %q is missing", name), "write "+name+": "+want(fields[name].Type, fields[name].Tag.Get("jsonschema")))
		}
	}
}

func (d *decoder) mapping(n ast.Node, v reflect.Value, key string, depth int) {
	m := reflect.MakeMap(v.Type())
	for _, e := range d.entries(n, key) {
		name := keyText(e.Key)
		if !validName(name) {
			d.problem(position(e.Key), key, "not usable as a name", "use lower-case letters, digits, - and _, at most 64 characters")
			continue
		}
		item := reflect.New(v.Type().Elem()).Elem()
		d.value(e.Value, item, join(key, name), "", depth+1)
		m.SetMapIndex(reflect.ValueOf(name), item)
	}
	v.Set(m)
}

func (d *decoder) sequence(n ast.Node, v reflect.Value, key string, depth int) {
	seq, ok := n.(*ast.SequenceNode)
	if !ok {
		d.problem(position(n), key, "found "+kind(n)+" where a list is expected", "write [one, two], or one line per item that begins with -")
		return
	}
	list := reflect.MakeSlice(v.Type(), len(seq.Values), len(seq.Values))
	for i, item := range seq.Values {
		d.value(item, list.Index(i), fmt.Sprintf("%s[%d]", key, i), "", depth+1)
	}
	v.Set(list)
}

var (
	durationType = reflect.TypeFor[Duration]()
	dateType     = reflect.TypeFor[Date]()
)

// ParseDuration reads what time.ParseDuration does, and days at the beginning: 90d, 1d12h.
func ParseDuration(text string) (time.Duration, error) {
	days, rest, ok := strings.Cut(text, "d")
	if !ok {
		return time.ParseDuration(text)
	}
	n, err := strconv.ParseUint(days, 10, 16)
	if err != nil || rest == "" {
		return time.Duration(n) * 24 * time.Hour, err
	}
	span, err := time.ParseDuration(rest)
	if span < 0 || rest[0] == '+' {
		return 0, errors.New("a sign inside a duration")
	}
	return time.Duration(n)*24*time.Hour + span, err
}

func (d *decoder) scalar(n ast.Node, v reflect.Value, key, tag string) {
	wrong := func() {
		d.problem(position(n), key, fmt.Sprintf("found %s where %s is expected", kind(n), want(v.Type(), "")), "write "+want(v.Type(), tag))
	}
	switch {
	case v.Type() == durationType:
		text, ok := stringOf(n)
		span, err := ParseDuration(text)
		if !ok || err != nil || span <= 0 {
			wrong()
			return
		}
		v.SetInt(int64(span))
	case v.Kind() == reflect.String:
		text, ok := stringOf(n)
		if year, number := n.(*ast.IntegerNode); number && v.Type() == dateType {
			text, ok = year.GetToken().Value, true
		}
		if !ok {
			wrong()
			return
		}
		v.SetString(text)
		d.texts[key] = text
		d.inEnum(n, text, key, tag)
	case v.Kind() == reflect.Bool:
		b, ok := n.(*ast.BoolNode)
		if !ok {
			wrong()
			return
		}
		v.SetBool(b.Value)
	case v.Kind() == reflect.Int:
		i, ok := n.(*ast.IntegerNode)
		if !ok {
			wrong()
			return
		}
		number, err := strconv.ParseInt(fmt.Sprint(i.Value), 10, 64)
		low, high := tagInt(tag, "minimum"), tagInt(tag, "maximum")
		if err != nil || (low != nil && number < *low) || (high != nil && number > *high) {
			d.problem(position(n), key, "the number is out of range", "write "+want(v.Type(), tag))
			return
		}
		v.SetInt(number)
	default:
		panic("configs: a field of type " + v.Type().String() + " cannot be decoded")
	}
}

func (d *decoder) inEnum(n ast.Node, text, key, tag string) {
	allowed := tagValues(tag, "enum")
	if len(allowed) > 0 && !slices.Contains(allowed, text) {
		d.problem(position(n), key, "not one of the values that are known here", suggestion(text, allowed))
	}
	if text == "" {
		d.problem(position(n), key, "the text is empty", "write a value, or leave the key out")
	}
	if looksSecret(text) {
		d.problem(position(n), key, "this looks like a secret, and secrets are never values in this file",
			"remove it, revoke it if the file was shared, and keep it in the vault: tablexport tokens stage NAME")
		d.problems[len(d.problems)-1].Secret = true
	}
}

// secretForm is what ERP.net, Vault, AWS and age make their secrets look like, anywhere in a text: a filter may hold one as well.
var secretForm = regexp.MustCompile(`\b(enrt_|hv[sb]\.|AKIA|AGE-SECRET-KEY-|Bearer )[A-Za-z0-9+/=_.~-]{9,}`)

func looksSecret(text string) bool { return secretForm.MatchString(text) }

// stringOf gives the text of a string scalar. Block scalars lose the line break at their end, which
// nobody means in a filter.
func stringOf(n ast.Node) (string, bool) {
	switch n := n.(type) {
	case *ast.StringNode:
		return n.Value, true
	case *ast.LiteralNode:
		return strings.TrimRight(n.Value.Value, "\n"), true
	}
	return "", false
}

func keyText(n ast.MapKeyNode) string {
	if s, ok := n.(*ast.StringNode); ok {
		return s.Value
	}
	if t := n.GetToken(); t != nil {
		return t.Value
	}
	return ""
}

func kind(n ast.Node) string {
	switch n.(type) {
	case *ast.MappingNode, *ast.MappingValueNode:
		return "keys"
	case *ast.SequenceNode:
		return "a list"
	case *ast.StringNode, *ast.LiteralNode:
		return "text"
	case *ast.BoolNode:
		return "true or false"
	case *ast.IntegerNode, *ast.FloatNode, *ast.InfinityNode, *ast.NanNode:
		return "a number"
	case *ast.NullNode:
		return "nothing"
	}
	if t := n.GetToken(); t != nil && t.Type == token.UnknownType {
		return "something unreadable"
	}
	return "something else"
}

// want says in words what belongs at a place.
func want(t reflect.Type, tag string) string {
	if values := tagValues(tag, "enum"); len(values) > 0 {
		return strings.Join(values, " or ")
	}
	switch {
	case t == durationType:
		return "a duration such as 30s or 5m"
	case t == dateType:
		return "a date or period such as 2023-04-01, 2023-04 or 2023"
	case t.Kind() == reflect.String:
		return "text"
	case t.Kind() == reflect.Bool:
		return "true or false"
	case t.Kind() == reflect.Int:
		low, high := tagInt(tag, "minimum"), tagInt(tag, "maximum")
		if low != nil && high != nil {
			return fmt.Sprintf("a whole number from %d to %d", *low, *high)
		}
		if low != nil {
			return fmt.Sprintf("a whole number of at least %d", *low)
		}
		return "a whole number"
	case t.Kind() == reflect.Slice:
		return "a list"
	}
	return "its keys on the lines below, indented"
}

func hasTag(tag, name string) bool { return slices.Contains(strings.Split(tag, ","), name) }

func tagValues(tag, name string) []string {
	var values []string
	for _, part := range strings.Split(tag, ",") {
		if v, ok := strings.CutPrefix(part, name+"="); ok {
			values = append(values, v)
		}
	}
	return values
}

func tagInt(tag, name string) *int64 {
	for _, text := range tagValues(tag, name) {
		if n, err := strconv.ParseInt(text, 10, 64); err == nil {
			return &n
		}
	}
	return nil
}

func join(key, name string) string {
	if key == "" {
		return name
	}
	return key + "." + name
}

func last(key string) string {
	if key == "" {
		return "the top"
	}
	return key[strings.LastIndexByte(key, '.')+1:] + ":"
}

// validName keeps names usable in file names, log lines and metric labels.
func validName(name string) bool {
	if name == "" || len(name) > 64 {
		return false
	}
	for i, r := range name {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9':
		case (r == '-' || r == '_') && i > 0:
		default:
			return false
		}
	}
	return true
}
