package filter

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// tokenKind is what a token is.
type tokenKind uint8

const (
	tokenEnd    tokenKind = iota
	tokenWord             // a path, an operator, a number, a GUID, a date: a run of letters, digits and _ . : + - / @ $ #
	tokenText             // 'single quoted', text without the quotes, '' undoubled
	tokenOpen             // (
	tokenClose            // )
	tokenComma            // ,
	tokenSymbol           // an operator of another language: = != <> < <= > >= == && || * ;
)

// token is one token. offset and end are byte offsets in the source.
type token struct {
	kind        tokenKind
	text        string
	offset, end int
}

// lex cuts text into tokens, the last of which is tokenEnd. Every byte of text is looked at a bounded
// number of times.
func lex(text string) ([]token, *Problem) {
	var tokens []token
	for i := 0; i < len(text); {
		r, size := utf8.DecodeRuneInString(text[i:])
		if r == utf8.RuneError && size == 1 {
			return nil, &Problem{i, "the filter is not valid UTF-8", "save the file as UTF-8"}
		}
		if unicode.IsSpace(r) {
			i += size
			continue
		}
		t := token{offset: i, end: i + size}
		switch {
		case r == '(':
			t.kind = tokenOpen
		case r == ')':
			t.kind = tokenClose
		case r == ',':
			t.kind = tokenComma
		case r == '\'':
			var ok bool
			if t.text, t.end, ok = lexText(text, i); !ok {
				return nil, &Problem{i, "this quoted text never ends", "close it with a single quote; a quote inside the text is doubled: 'O''Neill'"}
			}
			t.kind = tokenText
		case wordRune(r):
			for t.end < len(text) {
				r, size := utf8.DecodeRuneInString(text[t.end:])
				if !wordRune(r) {
					break
				}
				t.end += size
			}
			t.kind = tokenWord
		case strings.ContainsRune("=!<>&|*;", r):
			for t.end < len(text) && strings.IndexByte("=>&|", text[t.end]) >= 0 {
				t.end++
			}
			t.kind = tokenSymbol
		case strings.ContainsRune("\"“”‘’`", r):
			return nil, &Problem{i, fmt.Sprintf("%c does not quote a text here", r), "put texts in single quotes: 'Oslo'"}
		default:
			return nil, &Problem{i, fmt.Sprintf("the character %q has no meaning here", r), "put texts in single quotes: 'Oslo'"}
		}
		if t.kind != tokenText {
			t.text = text[t.offset:t.end]
		}
		tokens = append(tokens, t)
		i = t.end
	}
	return append(tokens, token{kind: tokenEnd, offset: len(text), end: len(text)}), nil
}

func wordRune(r rune) bool {
	return unicode.IsLetter(r) && r != utf8.RuneError || unicode.IsDigit(r) || strings.ContainsRune("_.:+-/@$#", r)
}

// lexText reads the quoted text that begins at text[i].
func lexText(text string, i int) (value string, end int, ok bool) {
	for end = i + 1; ; {
		j := strings.IndexByte(text[end:], '\'')
		if j < 0 {
			return "", 0, false
		}
		end += j + 1
		if end < len(text) && text[end] == '\'' {
			end++
			continue
		}
		break
	}
	value = text[i+1 : end-1]
	if !utf8.ValidString(value) {
		return "", 0, false
	}
	return strings.ReplaceAll(value, "''", "'"), end, true
}
