//go:build !unix

package main

// noCore does nothing here: such systems write no core dumps by themselves.
func noCore() {}
