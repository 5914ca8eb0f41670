//go:build race

package edm

// raced: the race detector empties the pools of the standard library at random, so that what is allocated cannot be counted.
const raced = true
