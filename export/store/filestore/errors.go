package filestore

import (
	"context"
	"errors"
	"io/fs"
	"strings"

	"github.com/tablexport/tablexport/export/store"
)

// escapes is what os.Root says when a symbolic link leads out of it; there is no sentinel for it.
const escapes = "path escapes from parent"

// wrap makes a *store.Error of an error of the file system.
func wrap(op, key string, err error) error {
	if err == nil {
		return nil
	}
	var already *store.Error
	if errors.As(err, &already) {
		return err
	}
	return &store.Error{Code: code(err), Op: op, Key: key, Err: err}
}

func code(err error) store.Code {
	if c, ok := systemCode(err); ok {
		return c
	}
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return store.Canceled
	case errors.Is(err, fs.ErrNotExist):
		return store.NotFound
	case errors.Is(err, fs.ErrExist):
		return store.AlreadyExists
	case errors.Is(err, fs.ErrPermission):
		return store.Permission
	case strings.Contains(err.Error(), escapes):
		return store.Permission
	case errors.Is(err, fs.ErrClosed), errors.Is(err, fs.ErrInvalid), errors.Is(err, errNotRegular):
		return store.Invalid
	}
	return store.Unknown
}
