package odata

import "fmt"

// object parses one row into the columns, at row d.n. b[pos] is its first byte.
//
// Servers write the properties of all rows in one order, so the key that followed the last one in the row
// before is compared first, byte by byte with its quotes and colon. Only another key is parsed, looked up,
// and learnt.
func (d *decoder) object(b []byte, pos int) int {
	if b[pos] != '{' {
		return d.wrongType(nil, b, pos, "a row is to be an object, found ")
	}
	d.rowID++
	d.came = d.came[:0]
	before, found := len(d.cols), 0
	pos = skipSpace(b, pos+1)
	if b[pos] == '}' {
		return d.complete(pos+1, found)
	}
	for {
		i := int(d.next[before])
		c := &d.cols[i]
		if end := pos + len(c.key); end <= len(b) && string(b[pos:end]) == c.key {
			pos = end
		} else {
			if i, pos = d.otherKey(b, pos); pos < 0 {
				return pos
			}
			if i >= 0 {
				c = &d.cols[i]
				d.next[before] = int32(i)
			}
		}
		if i >= 0 { // else an annotation, skipped with its value
			if pos = d.property(c, b, pos); pos < 0 {
				return pos
			}
			before = i
			found++
			d.came = append(d.came, int32(i))
		}
		switch b[pos] {
		case ',':
			pos = skipSpace(b, pos+1)
			continue
		case '}':
			return d.complete(pos+1, found)
		}
		pos = skipSpace(b, pos)
		switch b[pos] {
		case ',':
			pos = skipSpace(b, pos+1)
		case '}':
			return d.complete(pos+1, found)
		default:
			return d.fail(pos, "expected a comma or } after a value")
		}
	}
}

// property parses the value of a column, after the colon.
func (d *decoder) property(c *column, b []byte, pos int) int {
	if c.seenIn == d.rowID {
		return d.refuse(c, "the property comes twice in the row")
	}
	c.seenIn = d.rowID
	if b[pos] <= ' ' {
		pos = skipSpace(b, pos)
	}
	if b[pos] != 'n' {
		if pos = c.op(d, c, b, pos); pos < 0 {
			d.blame(c)
		}
		return pos
	}
	if pos = d.literal(b, pos, "null"); pos < 0 {
		return pos
	}
	if !c.nullable && (!d.lenient || c.anchor) {
		return d.refuse(c, "null, where the model allows none")
	}
	c.setNull(d.mem, d.n, d.room)
	return pos
}

// blame names the column in an error that arose below, where columns are not known.
func (d *decoder) blame(c *column) {
	if e, ok := d.err.(*DataError); ok {
		e.Column = c.name
	}
}

// complete checks, at the end of a row, that no column is missing: a property that is not there is not null.
func (d *decoder) complete(pos, found int) int {
	if found == len(d.cols) {
		if !d.lenient { // the order of a stand-in says nothing
			d.learn()
		}
		return pos
	}
	for i := range d.cols {
		if c := &d.cols[i]; c.seenIn != d.rowID {
			if found == 0 {
				return d.refuse(c, "the property is missing, as are all others")
			}
			return d.refuse(c, "the property is missing (it is not null, it is not there)")
		}
	}
	panic("odata: a row has fewer properties than columns, yet none is missing")
}

// otherKey parses a key that is not the predicted one, and its colon. The column is -1 for an annotation,
// which is skipped together with its value.
func (d *decoder) otherKey(b []byte, pos int) (col, next int) {
	if b[pos] != '"' {
		return -1, d.fail(pos, "expected the name of a property")
	}
	name, pos := d.str(b, pos)
	if pos < 0 {
		return -1, pos
	}
	i, known := d.index[string(name)]
	annotation := !known && isAnnotation(name)
	failure := !known && string(name) == "error"
	var unexpected string
	if !known && !annotation {
		unexpected = printable(name)
	}
	if pos = skipSpace(b, pos); b[pos] != ':' {
		return -1, d.fail(pos, "expected a colon")
	}
	pos = skipSpace(b, pos+1)
	switch {
	case known:
		return int(i), pos
	case annotation:
		return -1, d.skip(b, pos, false)
	case b[pos] == 0:
		return -1, d.fail(pos, "expected a value") // what kind of value it is decides below
	case failure && b[pos] == '{':
		if pos = d.reported(b, pos); pos < 0 {
			return -1, pos
		}
		return -1, -1
	}
	return -1, d.refuse(nil, fmt.Sprintf("unexpected property %s: the selection has no such column", unexpected))
}
