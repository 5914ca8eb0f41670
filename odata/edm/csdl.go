package edm

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode"
)

// MaxCSDL is the length in bytes beyond which [ParseCSDL] refuses a document: 32 MiB, ten times what the documented
// model of 693 tables and 7,000 columns takes. It reads one byte more than that at most.
const MaxCSDL = 32 << 20

// Limits on what is in a $metadata document. It comes from a server and may be anything. What is kept in memory is counted
// while it is read, used or not: a few bytes of XML are some hundred as a property.
const (
	maxCSDLToken    = 1 << 20 // bytes of one element's tag, one text or one comment: the XML decoder holds it whole
	maxCSDLDepth    = 100     // nested elements; annotations nest
	maxCSDLElements = 1 << 20
	maxCSDLTables   = 20_000
	maxCSDLTypes    = 50_000  // entity, complex and enumeration types and type definitions
	maxCSDLColumns  = 200_000 // properties and navigation properties of all types; and of all tables, inherited ones counted in each
	maxCSDLMembers  = 200_000 // of all enumerations
	maxCSDLBindings = 200_000 // of all entity sets
	maxCSDLAliases  = 1_000
	maxCSDLText     = 8 << 20 // bytes of all descriptions; and of all tables' columns, inherited ones counted in each
	maxBaseTypes    = 32
	maxKeyColumns   = 64  // of one type
	maxIdentifier   = 128 // CSDL XML 4.01, section 15.2
	maxTypeName     = 512 // "Collection(Namespace.Name)"
	maxDescription  = 4 << 10
)

const (
	edmxNamespace = "http://docs.oasis-open.org/odata/ns/edmx"
	edmNamespace  = "http://docs.oasis-open.org/odata/ns/edm"
)

// CSDLError says what is wrong with a $metadata document, and in which line.
type CSDLError struct {
	Line int
	Text string
}

// Error implements error.
func (e *CSDLError) Error() string { return fmt.Sprintf("$metadata, line %d: %s", e.Line, e.Text) }

// ParseCSDL reads a $metadata document: CSDL XML 4.0 or 4.01 (docs.oasis-open.org/odata). Every entity
// set becomes a table of that name; properties become columns in document order, those of base types
// first. Of one table's columns:
//
//   - Enumerations become String with the member names as Allowed (OData sends names), type definitions
//     become what they stand for, and complex types that hold nothing but texts become MultiLanguage.
//   - Types that cannot be decoded (collections, streams, geography, other complex types, unknown ones)
//     become columns of kind Invalid, with the type's name in Source: never selected by default, and to
//     be refused when asked for.
//   - A decimal without Precision, or with a variable or floating Scale, becomes decimal(38,18) unless
//     [Merge] knows better: values that do not fit it exactly are errors of the decoder, never rounded.
//     With Precision but without Scale it has no digits after the point, as CSDL says, unless Merge
//     knows better. A precision beyond 38 becomes 38.
//   - The column of a navigation property's referential constraint gets its Navigation and References;
//     without a constraint the vendor's rule applies (X_Reference follows X_Id).
//
// The document is hostile input: size, nesting, counts and names are bounded, document type
// declarations and entities other than XML's own are refused, nothing is fetched. Time and memory grow with the
// document's length, never faster. Errors are *CSDLError, or the reader's: a reader that fails when a context ends
// ends the parsing, since no step takes long without reading.
func ParseCSDL(r io.Reader) (*Model, error) { return parseCSDL(r, MaxCSDL) }

func parseCSDL(r io.Reader, limit int64) (*Model, error) {
	d := &csdl{
		source: &source{r: r, left: limit, token: maxCSDLToken}, limit: limit, aliases: map[string]string{}, types: map[string]*csdlType{},
		enums: map[string][]string{}, definitions: map[string]csdlProperty{}, descriptions: map[string]string{},
	}
	d.xml = xml.NewDecoder(d.source)
	d.xml.CharsetReader = func(charset string, _ io.Reader) (io.Reader, error) {
		return nil, d.fail(1, "the document is in encoding %s; UTF-8 is expected", shown(charset))
	}
	if err := d.document(); err != nil {
		return nil, err
	}
	return d.build()
}

// source bounds a reader and remembers its error, which the XML decoder mixes with its own.
type source struct {
	r     io.Reader
	left  int64 // bytes that may still come, -1 once there was one more
	token int   // bytes that the token being read may still take, negative once it took more
	err   error // of r, but for io.EOF
}

func (s *source) Read(p []byte) (int, error) {
	if s.left < 0 || s.token < 0 {
		return 0, io.EOF
	}
	n, err := s.r.Read(p[:min(int64(len(p)), s.left+1)])
	s.left -= int64(n)
	s.token -= n
	if err != nil && !errors.Is(err, io.EOF) {
		s.err = err
	}
	return n, err
}

// csdl is a document being read.
type csdl struct {
	source   *source
	limit    int64
	xml      *xml.Decoder
	depth    int
	elements int

	// What was kept so far, each against its limit.
	columns, members, bindings, text int

	aliases      map[string]string // alias → namespace
	types        map[string]*csdlType
	enums        map[string][]string     // qualified name → members
	definitions  map[string]csdlProperty // type definitions: what they stand for
	descriptions map[string]string       // "NS.Type/Property" → text, from Annotations elements
	sets         []csdlSet
}

// csdlType is an entity type or a complex type.
type csdlType struct {
	name       string // qualified
	base       string
	entity     bool
	line       int
	key        []string
	properties []csdlProperty
	navigation []csdlNavigation
	mixed      bool // some property is no Edm.String
}

type csdlProperty struct {
	name, typ, description          string
	nullable                        bool
	precision, scale, maxLength     string
	line                            int
	hasPrecision, hasScale, hasMaxL bool
}

type csdlNavigation struct {
	name, typ  string
	constraint []string // the properties that hold the other side's key
}

type csdlSet struct {
	name, typ string
	line      int
	bindings  map[string]string // navigation path → entity set
}

func (d *csdl) fail(line int, text string, args ...any) error {
	return &CSDLError{Line: line, Text: fmt.Sprintf(text, args...)}
}

func (d *csdl) line() int {
	line, _ := d.xml.InputPos()
	return line
}

// token reads one token, and turns every fault of the text into a CSDLError.
func (d *csdl) token() (xml.Token, error) {
	t, err := d.xml.Token()
	switch {
	case d.source.left < 0:
		return nil, d.fail(d.line(), "the document is longer than %d bytes", d.limit)
	case d.source.token < 0:
		return nil, d.fail(d.line(), "a tag, text or comment is longer than %d bytes", maxCSDLToken)
	}
	d.source.token = maxCSDLToken
	if err != nil {
		syntax, ours := (*xml.SyntaxError)(nil), (*CSDLError)(nil)
		switch {
		case d.source.err != nil:
			return nil, fmt.Errorf("reading $metadata: %w", d.source.err)
		case errors.As(err, &ours):
			return nil, ours
		case errors.As(err, &syntax):
			return nil, d.fail(syntax.Line, "not well-formed XML: %s", syntax.Msg)
		case errors.Is(err, io.EOF):
			return nil, d.fail(d.line(), "the document ends too early")
		}
		return nil, d.fail(d.line(), "not well-formed XML: %v", err)
	}
	switch t := t.(type) {
	case xml.Directive:
		return nil, d.fail(d.line(), "a document type declaration is not accepted")
	case xml.StartElement:
		if d.depth++; d.depth > maxCSDLDepth {
			return nil, d.fail(d.line(), "elements are nested more than %d deep", maxCSDLDepth)
		}
		if d.elements++; d.elements > maxCSDLElements {
			return nil, d.fail(d.line(), "there are more than %d elements", maxCSDLElements)
		}
		return t, nil
	case xml.EndElement:
		d.depth--
	}
	return t, nil
}

// children calls f for every child of the element that was just opened; f must read its child to the end.
// Text is handed to text, if that is not nil.
func (d *csdl) children(f func(e xml.StartElement) error, text func([]byte)) error {
	for {
		t, err := d.token()
		if err != nil {
			return err
		}
		switch t := t.(type) {
		case xml.EndElement:
			return nil
		case xml.CharData:
			if text != nil {
				text(t)
			}
		case xml.StartElement:
			if f == nil || t.Name.Space != edmNamespace && t.Name.Space != edmxNamespace {
				err = d.skip()
			} else {
				err = f(t)
			}
			if err != nil {
				return err
			}
		}
	}
}

func (d *csdl) skip() error {
	for open := 1; open > 0; {
		t, err := d.token()
		if err != nil {
			return err
		}
		switch t.(type) {
		case xml.StartElement:
			open++
		case xml.EndElement:
			open--
		}
	}
	return nil
}

// document reads Edmx → DataServices → Schema.
func (d *csdl) document() error {
	for {
		t, err := d.token()
		if err != nil {
			return err
		}
		switch t := t.(type) {
		case xml.CharData:
			if len(bytes.TrimSpace(bytes.TrimPrefix(t, []byte("\ufeff")))) > 0 {
				return d.fail(d.line(), "this is no XML document")
			}
		case xml.StartElement:
			if t.Name.Local != "Edmx" || t.Name.Space != edmxNamespace {
				return d.fail(d.line(), "the root element is %s, not Edmx of OData 4 (%s)", shown(t.Name.Local), edmxNamespace)
			}
			if v := attr(t, "Version"); v != "4.0" && v != "4.01" {
				return d.fail(d.line(), "CSDL version %s is not supported; 4.0 and 4.01 are", shown(v))
			}
			return d.children(d.edmx, nil)
		}
	}
}

func (d *csdl) edmx(e xml.StartElement) error {
	switch e.Name.Local {
	case "DataServices":
		return d.children(func(e xml.StartElement) error {
			if e.Name.Local == "Schema" {
				return d.schema(e)
			}
			return d.skip()
		}, nil)
	case "Reference":
		return d.children(func(e xml.StartElement) error {
			if e.Name.Local == "Include" {
				if err := d.alias(e); err != nil {
					return err
				}
			}
			return d.skip()
		}, nil)
	}
	return d.skip()
}

// alias notes the Alias of an Include or a Schema.
func (d *csdl) alias(e xml.StartElement) error {
	a := attr(e, "Alias")
	if a == "" {
		return nil
	}
	if len(d.aliases) >= maxCSDLAliases {
		return d.fail(d.line(), "there are more than %d aliases", maxCSDLAliases)
	}
	d.aliases[a] = attr(e, "Namespace")
	return nil
}

// count adds n to what is kept of one kind.
func (d *csdl) count(kept *int, n, limit int, what string) error {
	if *kept += n; *kept > limit {
		return d.fail(d.line(), "there are more than %d %s", limit, what)
	}
	return nil
}

// newType makes room for one more type.
func (d *csdl) newType() error {
	n := len(d.types) + len(d.enums) + len(d.definitions)
	return d.count(&n, 1, maxCSDLTypes, "types")
}

func (d *csdl) schema(e xml.StartElement) error {
	namespace := attr(e, "Namespace")
	if namespace == "" {
		return d.fail(d.line(), "a Schema has no Namespace")
	}
	if err := d.alias(e); err != nil {
		return err
	}
	return d.children(func(e xml.StartElement) error {
		switch e.Name.Local {
		case "EntityType", "ComplexType":
			return d.structured(e, namespace)
		case "EnumType":
			return d.enum(e, namespace)
		case "TypeDefinition":
			name, err := d.identifier(e, namespace)
			if err != nil {
				return err
			}
			if err := d.newType(); err != nil {
				return err
			}
			p, err := d.facets(e, "UnderlyingType")
			if err != nil {
				return err
			}
			d.definitions[name] = p
			return d.skip()
		case "EntityContainer":
			return d.children(d.container, nil)
		case "Annotations":
			return d.annotations(e)
		}
		return d.skip()
	}, nil)
}

// identifier reads a Name attribute and qualifies it. Names go into URLs and filters, so only OData's
// simple identifiers are taken: a name with a space or a quote in it would be a way to inject.
func (d *csdl) identifier(e xml.StartElement, namespace string) (string, error) {
	name := attr(e, "Name")
	if !simpleIdentifier(name) {
		return "", d.fail(d.line(), "%s is no valid name for a %s", shown(name), e.Name.Local)
	}
	if namespace != "" {
		name = namespace + "." + name
	}
	return name, nil
}

func simpleIdentifier(name string) bool {
	n := 0
	for _, r := range name {
		if r != '_' && !unicode.IsLetter(r) && (n == 0 || !unicode.IsDigit(r)) || r == unicode.ReplacementChar {
			return false
		}
		n++
	}
	return n > 0 && n <= maxIdentifier
}

func (d *csdl) structured(e xml.StartElement, namespace string) error {
	line := d.line()
	name, err := d.identifier(e, namespace)
	if err != nil {
		return err
	}
	if d.types[name] != nil {
		return d.fail(line, "type %s is defined twice", name)
	}
	if err := d.newType(); err != nil {
		return err
	}
	t := &csdlType{name: name, base: attr(e, "BaseType"), entity: e.Name.Local == "EntityType", line: line}
	d.types[name] = t
	return d.children(func(e xml.StartElement) error {
		switch e.Name.Local {
		case "Key":
			return d.children(func(e xml.StartElement) error {
				if e.Name.Local == "PropertyRef" {
					if len(t.key) >= maxKeyColumns {
						return d.fail(d.line(), "the key of type %s has more than %d properties", name, maxKeyColumns)
					}
					t.key = append(t.key, attr(e, "Name"))
				}
				return d.skip()
			}, nil)
		case "Property":
			return d.property(e, t)
		case "NavigationProperty":
			return d.navigationProperty(e, t)
		}
		return d.skip()
	}, nil)
}

func (d *csdl) property(e xml.StartElement, t *csdlType) error {
	if err := d.count(&d.columns, 1, maxCSDLColumns, "properties"); err != nil {
		return err
	}
	name, err := d.identifier(e, "")
	if err != nil {
		return err
	}
	p, err := d.facets(e, "Type")
	if err != nil {
		return err
	}
	p.name = name
	if err := d.children(d.description(&p.description), nil); err != nil {
		return err
	}
	t.properties = append(t.properties, p)
	t.mixed = t.mixed || p.typ != "Edm.String"
	return nil
}

// facets reads type, nullability and facets of a property or a type definition.
func (d *csdl) facets(e xml.StartElement, typeAttribute string) (csdlProperty, error) {
	p := csdlProperty{typ: attr(e, typeAttribute), nullable: true, line: d.line()}
	for _, a := range e.Attr {
		if a.Name.Space != "" {
			continue
		}
		switch a.Name.Local {
		case "Nullable":
			if a.Value != "true" && a.Value != "false" {
				return p, d.fail(p.line, "Nullable is %s, not true or false", shown(a.Value))
			}
			p.nullable = a.Value == "true"
		case "Precision":
			p.precision, p.hasPrecision = a.Value, true
		case "Scale":
			p.scale, p.hasScale = a.Value, true
		case "MaxLength":
			p.maxLength, p.hasMaxL = a.Value, true
		}
	}
	if p.typ == "" {
		return p, d.fail(p.line, "a %s has no %s", e.Name.Local, typeAttribute)
	}
	if len(p.typ) > maxTypeName || strings.ContainsFunc(p.typ, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return p, d.fail(p.line, "%s is no valid name of a type", shown(p.typ))
	}
	return p, nil
}

// description reads Annotation children that carry a Core.Description into text: one line of maxComment characters.
func (d *csdl) description(text *string) func(e xml.StartElement) error {
	return func(e xml.StartElement) error {
		if e.Name.Local != "Annotation" || attr(e, "Qualifier") != "" || !d.isDescription(attr(e, "Term")) {
			return d.skip()
		}
		// The text comes in as many pieces as there are comments in it.
		var found strings.Builder
		add := func(b string) { found.WriteString(b[:min(len(b), maxDescription-found.Len())]) }
		add(attr(e, "String"))
		err := d.children(func(e xml.StartElement) error {
			if e.Name.Local != "String" {
				return d.skip()
			}
			return d.children(nil, func(b []byte) { add(string(b)) })
		}, nil)
		if err != nil {
			return err
		}
		*text = oneLine(strings.ToValidUTF8(found.String(), ""), maxComment) // the end may have been cut within a character
		return d.count(&d.text, len(*text), maxCSDLText, "bytes of descriptions")
	}
}

func (d *csdl) isDescription(term string) bool {
	namespace, name := cutLast(term)
	if name != "Description" {
		return false
	}
	return namespace == "Org.OData.Core.V1" || namespace == "Core" || d.aliases[namespace] == "Org.OData.Core.V1"
}

func (d *csdl) navigationProperty(e xml.StartElement, t *csdlType) error {
	if err := d.count(&d.columns, 1, maxCSDLColumns, "properties"); err != nil {
		return err
	}
	name, err := d.identifier(e, "")
	if err != nil {
		return err
	}
	n := csdlNavigation{name: name, typ: attr(e, "Type")}
	err = d.children(func(e xml.StartElement) error {
		if e.Name.Local == "ReferentialConstraint" && len(n.constraint) < 2 { // two are as many as more: not followed
			n.constraint = append(n.constraint, attr(e, "Property"))
		}
		return d.skip()
	}, nil)
	t.navigation = append(t.navigation, n)
	return err
}

func (d *csdl) enum(e xml.StartElement, namespace string) error {
	name, err := d.identifier(e, namespace)
	if err != nil {
		return err
	}
	if err := d.newType(); err != nil {
		return err
	}
	members := []string{}
	err = d.children(func(e xml.StartElement) error {
		if e.Name.Local == "Member" {
			if err := d.count(&d.members, 1, maxCSDLMembers, "members of enumerations"); err != nil {
				return err
			}
			member, err := d.identifier(e, "")
			if err != nil {
				return err
			}
			members = append(members, member)
		}
		return d.skip()
	}, nil)
	d.enums[name] = members
	return err
}

func (d *csdl) container(e xml.StartElement) error {
	if e.Name.Local != "EntitySet" {
		return d.skip()
	}
	line := d.line()
	name, err := d.identifier(e, "")
	if err != nil {
		return err
	}
	if len(d.sets) >= maxCSDLTables {
		return d.fail(line, "there are more than %d entity sets", maxCSDLTables)
	}
	s := csdlSet{name: name, typ: attr(e, "EntityType"), line: line}
	err = d.children(func(e xml.StartElement) error {
		if e.Name.Local == "NavigationPropertyBinding" {
			if err := d.count(&d.bindings, 1, maxCSDLBindings, "navigation property bindings"); err != nil {
				return err
			}
			if s.bindings == nil {
				s.bindings = map[string]string{}
			}
			target := attr(e, "Target")
			if target = target[strings.LastIndexByte(target, '/')+1:]; simpleIdentifier(target) { // else it is no set's name
				s.bindings[attr(e, "Path")] = target
			}
		}
		return d.skip()
	}, nil)
	d.sets = append(d.sets, s)
	return err
}

// annotations reads descriptions that stand outside of what they describe.
func (d *csdl) annotations(e xml.StartElement) error {
	text := ""
	err := d.children(d.description(&text), nil)
	if path := attr(e, "Target"); text != "" && attr(e, "Qualifier") == "" {
		typ, property, ok := strings.Cut(path, "/")
		if ok {
			if len(d.descriptions) >= maxCSDLColumns {
				return d.fail(d.line(), "there are more than %d descriptions", maxCSDLColumns)
			}
			d.descriptions[d.qualified(typ)+"/"+property] = text
		}
	}
	return err
}

// qualified replaces an alias in a qualified name by its namespace.
func (d *csdl) qualified(name string) string {
	prefix, last := cutLast(name)
	if namespace, ok := d.aliases[prefix]; ok {
		return namespace + "." + last
	}
	return name
}

// cutLast splits a qualified name at its last dot.
func cutLast(name string) (prefix, last string) {
	i := strings.LastIndexByte(name, '.')
	if i < 0 {
		return "", name
	}
	return name[:i], name[i+1:]
}

// attr returns the value of an attribute without namespace, "" if it is absent.
func attr(e xml.StartElement, name string) string {
	for _, a := range e.Attr {
		if a.Name.Space == "" && a.Name.Local == name {
			return a.Value
		}
	}
	return ""
}

// shown quotes a piece of the document for a message, at most 60 characters of it.
func shown(text string) string {
	if r := []rune(text); len(r) > 60 {
		text = string(r[:60]) + "…"
	}
	return strconv.Quote(text)
}
