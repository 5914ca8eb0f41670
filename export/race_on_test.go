//go:build race

package export

// raced: the race detector makes everything ten times slower; the long tests take bigger steps then.
const raced = true
