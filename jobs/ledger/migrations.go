package ledger

import "io/fs"

// mustSub is the folder of the embedded migrations; it cannot fail for a folder that was embedded.
func mustSub() fs.FS {
	sub, err := fs.Sub(migrations, "migrations")
	if err != nil {
		panic(err)
	}
	return sub
}
