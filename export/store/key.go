package store

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

const (
	// MaxKey is the longest key in bytes. S3 takes 1,024; the rest is for the prefix that a store's configuration may add.
	MaxKey = 900
	// MaxSegment is the longest part between two slashes in bytes, the limit of the usual file systems.
	MaxSegment = 255
	// Unfinished begins the names that drivers give to unfinished files. No key has a segment that begins so, and List
	// never shows one.
	Unfinished = ".tmp-"
)

// ValidKey says whether key can name an object in every driver. A key
//   - has 1 to MaxKey bytes of valid UTF-8;
//   - consists of segments between single slashes, each of 1 to MaxSegment bytes, and neither begins nor ends with a slash;
//   - has no segment "." or "..", and none that begins with Unfinished;
//   - has no backslash (a separator on Windows), no control character and neither U+FFFE nor U+FFFF (an S3 listing is XML 1.0,
//     which cannot carry them).
//
// Everything else is allowed: spaces, %, +, =, quotes, any script. The error says which rule is broken.
func ValidKey(key string) error {
	if key == "" {
		return errors.New("the key is empty")
	}
	if err := validText(key); err != nil {
		return err
	}
	for segment := range strings.SplitSeq(key, "/") {
		if err := validSegment(segment); err != nil {
			return err
		}
		if segment == "" {
			return errors.New("the key begins or ends with a slash or has two in a row")
		}
	}
	return nil
}

// ValidPrefix says whether prefix can select keys in a listing: "" or the beginning of a valid key, cut anywhere.
func ValidPrefix(prefix string) error {
	if err := validText(prefix); err != nil {
		return err
	}
	dir := prefix[:strings.LastIndexByte(prefix, '/')+1]
	if dir == "" {
		return nil
	}
	return ValidKey(dir[:len(dir)-1])
}

func validText(s string) error {
	if len(s) > MaxKey {
		return fmt.Errorf("the key has %d bytes, at most %d are allowed: use a shorter path", len(s), MaxKey)
	}
	if !utf8.ValidString(s) {
		return errors.New("the key is not valid UTF-8")
	}
	for _, r := range s {
		if r < 0x20 || r == 0x7f || r == '\\' || r == 0xFFFE || r == 0xFFFF {
			return fmt.Errorf("the key contains the character %U, which not every store can hold", r)
		}
	}
	return nil
}

func validSegment(s string) error {
	switch {
	case s == "." || s == "..":
		return fmt.Errorf("the key contains the segment %q", s)
	case len(s) > MaxSegment:
		return fmt.Errorf("a segment of the key has %d bytes, at most %d are allowed", len(s), MaxSegment)
	case strings.HasPrefix(s, Unfinished):
		return fmt.Errorf("names that begin with %q are reserved for unfinished files", Unfinished)
	}
	return nil
}

// CheckKey is ValidKey as a driver needs it: nil, or an *Error of code Invalid for op. It returns the error interface, so that
// nil is nil.
func CheckKey(op, key string) error {
	if err := ValidKey(key); err != nil {
		return &Error{Code: Invalid, Op: op, Key: shown(key), Err: err}
	}
	return nil
}

// CheckPrefix is ValidPrefix as a driver's List needs it.
func CheckPrefix(op, prefix string) error {
	if err := ValidPrefix(prefix); err != nil {
		return &Error{Code: Invalid, Op: op, Key: shown(prefix), Err: err}
	}
	return nil
}

// shown cuts a key that is too long for a message.
func shown(key string) string {
	if len(key) <= MaxKey {
		return key
	}
	return key[:60] + "…"
}
