//go:build !linux

package filestore

import (
	"errors"
	"os"

	"github.com/tablexport/tablexport/export/store"
)

var errNoAtomicCreate = errors.New("the file system has no hard links, so two writers could not be kept apart: " +
	"put the store on a local file system")

// renameNoReplace refuses: there is no portable rename that fails when the new name is taken.
func renameNoReplace(_ *os.Root, _, to string) error {
	return &store.Error{Code: store.Refused, Op: "commit", Key: to, Err: errNoAtomicCreate}
}
