package edm

import (
	"slices"
	"strconv"
	"strings"
)

// openPrecision and openScale are the decimal of a property that states none: 20 digits before the point
// and 18 after it. The documented model's widest scale is 10.
const (
	openPrecision = 38
	openScale     = 18
)

// build turns what was read into a model.
func (d *csdl) build() (*Model, error) {
	setsOf := map[string][]string{} // entity type → entity sets
	for _, s := range d.sets {
		typ := d.qualified(s.typ)
		setsOf[typ] = append(setsOf[typ], s.name)
	}
	tables, seen, columns, text := make([]Table, 0, len(d.sets)), map[string]bool{}, 0, 0
	for _, s := range d.sets {
		if seen[s.name] {
			return nil, d.fail(s.line, "entity set %s is defined twice", s.name)
		}
		seen[s.name] = true
		chain, err := d.chain(s)
		if err != nil {
			return nil, err
		}
		for _, t := range chain {
			columns += len(t.properties) + len(t.navigation)
		}
		if columns > maxCSDLColumns {
			return nil, d.fail(s.line, "the tables have more than %d properties in all", maxCSDLColumns)
		}
		t, err := d.tableOf(s, chain, setsOf)
		if err != nil {
			return nil, err
		}
		for i := range t.Columns {
			text += len(t.Columns[i].Comment)
		}
		if text > maxCSDLText {
			return nil, d.fail(s.line, "the tables have more than %d bytes of descriptions in all", maxCSDLText)
		}
		tables = append(tables, t)
	}
	return New(tables...)
}

// chain returns the entity type of s and its base types, the root first.
func (d *csdl) chain(s csdlSet) ([]*csdlType, error) {
	var chain []*csdlType
	line, by := s.line, "entity set "+s.name
	for name := d.qualified(s.typ); name != ""; {
		t := d.types[name]
		switch {
		case t == nil || !t.entity:
			return nil, d.fail(line, "%s is of entity type %s, which is not defined", by, shown(name))
		case slices.Contains(chain, t):
			return nil, d.fail(t.line, "type %s is its own base type", t.name)
		case len(chain) >= maxBaseTypes:
			return nil, d.fail(t.line, "type %s has more than %d base types", chain[0].name, maxBaseTypes)
		}
		chain = append(chain, t)
		line, by, name = t.line, "type "+t.name, ""
		if t.base != "" {
			name = d.qualified(t.base)
		}
	}
	slices.Reverse(chain)
	return chain, nil
}

func (d *csdl) tableOf(s csdlSet, chain []*csdlType, setsOf map[string][]string) (Table, error) {
	t := Table{Name: s.name, Key: []string{}}
	n := 0
	for _, typ := range chain {
		n += len(typ.properties)
	}
	t.Columns = make([]Column, 0, n)
	at := make(map[string]int, n)
	for _, typ := range chain {
		for _, p := range typ.properties {
			if _, dup := at[p.name]; dup {
				return t, d.fail(p.line, "type %s has property %s twice", typ.name, p.name)
			}
			c, err := d.column(p)
			if err != nil {
				return t, err
			}
			if c.Comment == "" {
				c.Comment = d.descriptions[typ.name+"/"+p.name]
			}
			c.Secret = secret(s.name, p.name)
			at[p.name] = len(t.Columns)
			t.Columns = append(t.Columns, c)
		}
		if len(typ.key) == 0 {
			continue
		}
		if len(t.Key) > 0 {
			return t, d.fail(typ.line, "type %s has a key although its base type has one", typ.name)
		}
		t.Key = typ.key
	}
	for i, name := range t.Key {
		if strings.Contains(name, "/") {
			t.Key = []string{} // a key inside a complex property: rows do not carry it as a column
			break
		}
		if _, ok := at[name]; !ok || slices.Contains(t.Key[:i], name) {
			return t, d.fail(chain[len(chain)-1].line, "the key of %s names %s, which is no property of it, or names it twice", s.name, shown(name))
		}
	}
	for _, typ := range chain {
		for _, n := range typ.navigation {
			d.link(&t, at, n, s, setsOf)
		}
	}
	return t, nil
}

// link gives the column that n follows its Navigation and References.
func (d *csdl) link(t *Table, at map[string]int, n csdlNavigation, s csdlSet, setsOf map[string][]string) {
	if strings.HasPrefix(n.typ, "Collection(") || len(n.constraint) > 1 {
		return
	}
	var name string
	if len(n.constraint) == 1 {
		name = n.constraint[0]
	} else if stem, ok := strings.CutSuffix(n.name, "_Reference"); ok {
		name = stem + "_Id"
	}
	i, ok := at[name]
	if !ok || t.Columns[i].Navigation != "" {
		return
	}
	t.Columns[i].Navigation = n.name
	t.Columns[i].References = s.bindings[n.name]
	if sets := setsOf[d.qualified(n.typ)]; t.Columns[i].References == "" && len(sets) == 1 {
		t.Columns[i].References = sets[0]
	}
}

// column types a property.
func (d *csdl) column(p csdlProperty) (Column, error) {
	c := Column{Name: p.name, Nullable: p.nullable, Source: p.typ, Comment: p.description}
	name := d.qualified(p.typ)
	if def, ok := d.definitions[name]; ok {
		if !p.hasPrecision {
			p.precision, p.hasPrecision = def.precision, def.hasPrecision
		}
		if !p.hasScale {
			p.scale, p.hasScale = def.scale, def.hasScale
		}
		if !p.hasMaxL {
			p.maxLength, p.hasMaxL = def.maxLength, def.hasMaxL
		}
		name = def.typ
	}
	if members, ok := d.enums[name]; ok {
		c.Type.Kind, c.Allowed = String, members
		return c, nil
	}
	if t := d.types[name]; t != nil && d.multiLanguage(t) {
		c.Type.Kind = MultiLanguage
		return c, nil
	}
	c.Type.Kind = edmKinds[name]
	switch c.Type.Kind {
	case String, Binary:
		if p.hasMaxL && p.maxLength != "max" {
			n, err := strconv.ParseInt(p.maxLength, 10, 32)
			if err != nil || n < 0 {
				return c, d.fail(p.line, "property %s has MaxLength %s, which is neither a number nor max", p.name, shown(p.maxLength))
			}
			c.Type.MaxLength = int32(n)
		}
	case Decimal:
		return c, d.decimal(&c, p)
	}
	return c, nil
}

// edmKinds maps the primitive types that can be decoded. A Single is sent as a decimal text like a Double.
var edmKinds = map[string]Kind{
	"Edm.Guid": Guid, "Edm.String": String, "Edm.Boolean": Boolean, "Edm.Byte": Byte, "Edm.SByte": Int16,
	"Edm.Int16": Int16, "Edm.Int32": Int32, "Edm.Int64": Int64, "Edm.Decimal": Decimal, "Edm.Double": Double,
	"Edm.Single": Double, "Edm.Date": Date, "Edm.DateTimeOffset": DateTime, "Edm.TimeOfDay": TimeOfDay, "Edm.Binary": Binary,
}

// decimal sets precision and scale. What CSDL leaves open is never guessed narrow: a value that does not
// fit is an error of the decoder.
func (d *csdl) decimal(c *Column, p csdlProperty) error {
	precision, err := strconv.ParseInt(p.precision, 10, 32)
	if p.hasPrecision && (err != nil || precision < 1) {
		return d.fail(p.line, "property %s has Precision %s, which is no positive number", p.name, shown(p.precision))
	}
	open := p.scale == "variable" || p.scale == "floating" || p.scale == "Variable"
	scale := int64(0)
	if p.hasScale && !open {
		if scale, err = strconv.ParseInt(p.scale, 10, 32); err != nil || scale < 0 {
			return d.fail(p.line, "property %s has Scale %s, which is neither a number nor variable nor floating", p.name, shown(p.scale))
		}
	}
	switch {
	case open || !p.hasPrecision && !p.hasScale:
		c.Type.Precision, c.Type.Scale = openPrecision, openScale
	case !p.hasPrecision || precision > 38:
		c.Type.Precision, c.Type.Scale = 38, int32(min(scale, 100))
	default:
		c.Type.Precision, c.Type.Scale = int32(precision), int32(min(scale, 100))
	}
	c.openDecimal = open || !p.hasPrecision || !p.hasScale
	if c.Type.Scale > c.Type.Precision {
		c.Type = Type{} // more digits after the point than in all: no such decimal can be stored
	}
	return nil
}

// multiLanguage reports whether a complex type is a text in several languages: nothing but texts in it,
// and neither base type nor references.
func (d *csdl) multiLanguage(t *csdlType) bool {
	return !t.entity && t.base == "" && len(t.navigation) == 0 && !t.mixed
}
