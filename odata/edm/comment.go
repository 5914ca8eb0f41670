package edm

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	// maxComment bounds a column's comment, in characters: it goes into the log entry of every table that is published,
	// and into whatever tool shows the columns. The longest documented one has 373.
	maxComment = 1000
	maxAllowed = 600 // characters of the allowed values in it
)

// comment is the data dictionary's line for a column: the description, if the source has one, and what is known of the
// column in words that a reader of the Parquet file understands. It is at most maxComment characters, and never empty. A
// description that is too long is cut, so that the rest fits.
func comment(c *Column, description string) string {
	what := c.Type.Kind.words()
	if c.Type.Kind == Invalid {
		what = "unsupported type " + c.Source
	}
	if c.Type.Kind == Decimal {
		what = fmt.Sprintf("decimal, %d digits, %d of them after the point", c.Type.Precision, c.Type.Scale)
	}
	if c.Key {
		what += ", primary key"
	}
	parts := append(make([]string, 0, 5), what)
	if c.References != "" {
		role := "refers to "
		if c.OwnerRef {
			role = "belongs to "
		}
		parts = append(parts, role+c.References)
	}
	if len(c.Allowed) > 0 {
		parts = append(parts, "one of "+listed(c.Allowed))
	}
	if c.Secret {
		parts = append(parts, "secret, never exported")
	}
	facts := oneLine(strings.Join(parts, "; "), maxComment)
	d := oneLine(description, maxComment-utf8.RuneCountInString(facts)-len("; "))
	if d = strings.TrimRight(d, "."); d == "" {
		return facts
	}
	return d + "; " + facts
}

// listed joins values with commas, as many as fit. It looks at no more of them than it lists: an enumeration may have very
// many, and very many columns may be of it.
func listed(values []string) string {
	var b strings.Builder
	for i, v := range values {
		if i > 0 {
			b.WriteString(", ")
		}
		if b.Len()+len(v) > maxAllowed {
			fmt.Fprintf(&b, "… (%d in all)", len(values))
			break
		}
		b.WriteString(v)
	}
	return b.String()
}

// oneLine joins the words of text with single spaces, and cuts it to most characters. Control characters, line ends of every
// kind and marks that turn the direction of writing count as spaces: the text may come from anyone, and is shown to people.
func oneLine(text string, most int) string {
	var b strings.Builder
	n, end, gap := 0, 0, false // characters; bytes of the first most-1 of them
	for _, r := range text {
		if unicode.IsSpace(r) || unicode.IsControl(r) || unicode.In(r, unicode.Zl, unicode.Zp, unicode.Bidi_Control) {
			gap = n > 0
			continue
		}
		if gap {
			n, gap = n+1, false
			b.WriteByte(' ')
		}
		if n++; n > most {
			return strings.TrimRight(b.String()[:end], " ") + strings.Repeat("…", min(1, max(0, most)))
		}
		b.WriteRune(r)
		if n < most {
			end = b.Len()
		}
	}
	return b.String()
}
