//go:build !windows

package audit

import "io/fs"

// othersMayRead says whether anyone but the owner may read the file.
func othersMayRead(info fs.FileInfo) bool { return info.Mode().Perm()&0o077 != 0 }
