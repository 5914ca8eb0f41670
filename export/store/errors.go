package store

import (
	"context"
	"errors"
	"fmt"
	"strconv"
)

// Code is the closed set of what can go wrong with a bucket.
type Code uint8

// The codes.
const (
	Unknown       Code = iota
	NotFound           // no object of that key
	AlreadyExists      // PutIfAbsent or Upload.Commit lost
	Permission         // credentials missing, wrong or insufficient
	Unavailable        // network, throttling, server errors: may pass
	Invalid            // key or option not usable
	Canceled           // context ended
	Full               // no space or quota left
	Refused            // the server did not do what was asked (e.g. encryption not applied)
)

var codeNames = [...]string{
	Unknown: "unknown", NotFound: "not found", AlreadyExists: "already exists", Permission: "permission denied",
	Unavailable: "unavailable", Invalid: "invalid", Canceled: "canceled", Full: "full", Refused: "refused",
}

// String names the code in words: "not found", "already exists".
func (c Code) String() string {
	if int(c) < len(codeNames) {
		return codeNames[c]
	}
	return "code " + strconv.Itoa(int(c))
}

// Error is the error of every Bucket.
type Error struct {
	Code Code
	Op   string // "create", "write", "commit", "abort", "put-if-absent", "put", "open", "open-range", "read", "stat", "list", "delete", "sweep"
	Key  string // as the driver saw it: behind Prefixed it carries the prefix
	Err  error  // may be nil
}

// Error implements error: `store: put-if-absent "a/b": already exists`, and what the driver said.
func (e *Error) Error() string {
	s := "store: " + e.Op
	if e.Key != "" {
		s += " " + strconv.Quote(e.Key)
	}
	s += ": " + e.Code.String()
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Unwrap gives the driver's error.
func (e *Error) Unwrap() error { return e.Err }

// CodeOf finds the code in err: that of the outermost *Error, Canceled for context errors without one, and Unknown for nil
// and for errors of other packages.
func CodeOf(err error) Code {
	var e *Error
	switch {
	case errors.As(err, &e):
		return e.Code
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return Canceled
	}
	return Unknown
}

// Errorf makes an *Error whose cause is formatted as by fmt.Errorf.
func Errorf(code Code, op, key, format string, args ...any) *Error {
	return &Error{Code: code, Op: op, Key: key, Err: fmt.Errorf(format, args...)}
}
