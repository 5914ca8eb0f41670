//go:build !race

package edm

const raced = false
