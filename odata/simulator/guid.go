package simulator

// A GUID is held as its sort key: the sixteen stored bytes in the order in which SQL Server compares
// them, as two big-endian words. Comparing (hi, lo) as numbers is SQL Server's order.
//
// SQL Server stores the first three text groups little-endian and compares the stored bytes in the order
// 10,11,12,13,14,15, 8,9, 6,7, 4,5, 0,1,2,3.

// textOfSort[i] is the index of the text byte (two hex digits, dashes not counted) that stands at place i
// of the sort key: stored byte p is text byte textOfStored[p].
var textOfSort = [16]int{10, 11, 12, 13, 14, 15, 8, 9, 7, 6, 5, 4, 3, 2, 1, 0}

const hexDigits = "0123456789abcdef"

var hexPairs = func() (t [256][2]byte) {
	for i := range t {
		t[i] = [2]byte{hexDigits[i>>4], hexDigits[i&15]}
	}
	return t
}()

// appendGUID appends the lowercase 36-character text of the GUID whose sort key is (hi, lo).
func appendGUID(dst []byte, hi, lo uint64) []byte {
	var text [16]byte
	for i := range 8 {
		text[textOfSort[i]] = byte(hi >> (56 - 8*i))
		text[textOfSort[8+i]] = byte(lo >> (56 - 8*i))
	}
	for i, b := range text {
		switch i {
		case 4, 6, 8, 10:
			dst = append(dst, '-')
		}
		dst = append(dst, hexPairs[b][0], hexPairs[b][1])
	}
	return dst
}

// parseGUID reads the 36-character text form, upper or lower case.
func parseGUID(s string) (hi, lo uint64, ok bool) {
	if len(s) != 36 {
		return 0, 0, false
	}
	var text [16]byte
	n := 0
	for i := 0; i < 36; {
		if i == 8 || i == 13 || i == 18 || i == 23 {
			if s[i] != '-' {
				return 0, 0, false
			}
			i++
			continue
		}
		a, b := unhex(s[i]), unhex(s[i+1])
		if a < 0 || b < 0 {
			return 0, 0, false
		}
		text[n] = byte(a<<4 | b)
		n++
		i += 2
	}
	for i := range 8 {
		hi = hi<<8 | uint64(text[textOfSort[i]])
		lo = lo<<8 | uint64(text[textOfSort[8+i]])
	}
	return hi, lo, true
}

func unhex(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c >= 'a' && c <= 'f':
		return int(c-'a') + 10
	case c >= 'A' && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}
