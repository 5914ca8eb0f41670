package edm

import (
	"cmp"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// Ascending, as SQL Server sorts them: each differs from the all-zero GUID in one byte, from the byte
// that counts least to the one that counts most (Microsoft: the last group is compared first).
var sqlServerOrder = []string{
	"00000000-0000-0000-0000-000000000000",
	"01000000-0000-0000-0000-000000000000", // stored byte 3
	"00010000-0000-0000-0000-000000000000", // 2
	"00000100-0000-0000-0000-000000000000", // 1
	"00000001-0000-0000-0000-000000000000", // 0
	"00000000-0100-0000-0000-000000000000", // 5
	"00000000-0001-0000-0000-000000000000", // 4
	"00000000-0000-0100-0000-000000000000", // 7
	"00000000-0000-0001-0000-000000000000", // 6
	"00000000-0000-0000-0001-000000000000", // 9
	"00000000-0000-0000-0100-000000000000", // 8
	"00000000-0000-0000-0000-000000000001", // 15
	"00000000-0000-0000-0000-000000000100", // 14
	"00000000-0000-0000-0000-000000010000", // 13
	"00000000-0000-0000-0000-000001000000", // 12
	"00000000-0000-0000-0000-000100000000", // 11
	"00000000-0000-0000-0000-010000000000", // 10
	"ffffffff-ffff-ffff-ffff-ffffffffffff",
}

func TestCompareGUIDIsSQLServersOrder(t *testing.T) {
	for i, a := range sqlServerOrder {
		for j, b := range sqlServerOrder {
			if got := CompareGUID(a, strings.ToUpper(b)); got != cmp.Compare(i, j) {
				t.Errorf("CompareGUID(%s, %s) = %d", a, b, got)
			}
		}
	}
	// The example of Microsoft's "Comparing GUID and uniqueidentifier Values": three GUIDs whose order by
	// SqlGuid is c, a, b although their texts say otherwise.
	example := []string{
		"3aaaaaaa-bbbb-cccc-dddd-2eeeeeeeeeee", "2aaaaaaa-bbbb-cccc-dddd-1eeeeeeeeeee", "1aaaaaaa-bbbb-cccc-dddd-3eeeeeeeeeee",
	}
	slices.SortFunc(example, CompareGUID)
	if example[0][0] != '2' || example[1][0] != '3' || example[2][0] != '1' {
		t.Errorf("order is %q", example)
	}
}

func TestGUIDKeyRefusesOtherText(t *testing.T) {
	for _, text := range []string{
		"", "0", "00000000-0000-0000-0000-00000000000", "00000000-0000-0000-0000-0000000000000",
		"{0000000-0000-0000-0000-00000000000}", "00000000x0000-0000-0000-000000000000", "0000000g-0000-0000-0000-000000000000",
		"00000000-0000-0000-0000_000000000000", "000000000-000-0000-0000-000000000000",
	} {
		if _, ok := GUIDKey(text); ok {
			t.Errorf("GUIDKey(%q) is ok", text)
		}
		if CompareGUID(text, sqlServerOrder[0]) != -1 || CompareGUID(sqlServerOrder[0], text) != 1 || CompareGUID(text, text) != 0 {
			t.Errorf("%q has no place in the order", text)
		}
	}
}

// An independent reading of the rule: store as .NET does, then compare in the documented byte order.
func TestCompareGUIDAgainstTheStoredForm(t *testing.T) {
	stored := func(text string) (b [16]byte) {
		hex := strings.ReplaceAll(text, "-", "")
		for i := range b {
			b[i] = unhex[hex[2*i]]<<4 | unhex[hex[2*i+1]]
		}
		slices.Reverse(b[0:4])
		slices.Reverse(b[4:6])
		slices.Reverse(b[6:8])
		return b
	}
	guid := rapid.StringMatching(`[0-2]{8}-[0-2]{4}-[0-2]{4}-[0-2]{4}-[0-9a-f]{2}0{10}`)
	rapid.Check(t, func(t *rapid.T) {
		a, b := guid.Draw(t, "a"), guid.Draw(t, "b")
		want := 0
		sa, sb := stored(a), stored(b)
		for _, i := range []int{10, 11, 12, 13, 14, 15, 8, 9, 6, 7, 4, 5, 0, 1, 2, 3} {
			if want = cmp.Compare(sa[i], sb[i]); want != 0 {
				break
			}
		}
		if got := CompareGUID(a, b); got != want {
			t.Fatalf("CompareGUID(%s, %s) = %d, want %d", a, b, got, want)
		}
	})
}

func BenchmarkGUIDKey(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if _, ok := GUIDKey("2aaaaaaa-bbbb-cccc-dddd-1eeeeeeeeeee"); !ok {
			b.Fatal("not ok")
		}
	}
}
