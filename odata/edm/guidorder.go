package edm

import "bytes"

// GUIDKey parses a GUID of 36 characters (either case) into a key whose bytes compare as SQL Server
// compares uniqueidentifier values: it stores the first three text groups little-endian and compares
// the stored bytes in the order 10…15, 8, 9, 6, 7, 4, 5, 0, 1, 2, 3, so the last text group decides
// first. ok is false for any other text.
//
// Source: "Comparing GUID and uniqueidentifier Values", learn.microsoft.com/sql/connect/ado-net/sql.
func GUIDKey(text string) (key [16]byte, ok bool) {
	if len(text) != 36 {
		return key, false
	}
	var bad byte
	for i, at := range guidOrder {
		hi, lo := unhex[text[at]], unhex[text[at+1]]
		key[i] = hi<<4 | lo
		bad |= hi | lo
	}
	dashes := text[8] == '-' && text[13] == '-' && text[18] == '-' && text[23] == '-'
	return key, dashes && bad < 16
}

// guidOrder holds, in the order of comparison, where in the text each byte of the GUID begins. The
// little-endian storage of the first three groups and the backward walk through them cancel out in
// part: within the groups, bytes 4,5 and 6,7 and 0…3 are compared lowest stored byte first, which is
// the last pair of the text's group.
var guidOrder = [16]int{
	24, 26, 28, 30, 32, 34, // stored bytes 10…15: the last group
	19, 21, // 8, 9
	16, 14, // 6, 7: the third group, stored little-endian
	11, 9, // 4, 5: the second
	6, 4, 2, 0, // 0…3: the first
}

// unhex maps a byte to its value as a hex digit, or to 255.
var unhex = func() (t [256]byte) {
	for i := range t {
		t[i] = 255
	}
	for c := byte('0'); c <= '9'; c++ {
		t[c] = c - '0'
	}
	for c := byte('a'); c <= 'f'; c++ {
		t[c] = c - 'a' + 10
		t[c-'a'+'A'] = c - 'a' + 10
	}
	return t
}()

// CompareGUID compares two GUIDs as SQL Server does: -1, 0 or 1. Text that is no GUID sorts before
// every GUID, and among itself as text, so that the order is total; callers that must not see such
// text check it with [GUIDKey].
func CompareGUID(a, b string) int {
	ka, oka := GUIDKey(a)
	kb, okb := GUIDKey(b)
	switch {
	case oka && okb:
		return bytes.Compare(ka[:], kb[:])
	case oka:
		return 1
	case okb:
		return -1
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// GUIDText is the text of a key that GUIDKey has made, in lower case.
func GUIDText(key [16]byte) string {
	const digits = "0123456789abcdef"
	text := [36]byte{8: '-', 13: '-', 18: '-', 23: '-'}
	for i, at := range guidOrder {
		text[at], text[at+1] = digits[key[i]>>4], digits[key[i]&15]
	}
	return string(text[:])
}
