//go:build !race

package odata

const poisoned = false
