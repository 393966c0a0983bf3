//go:build race

package bundle

// raced says that the race detector is there, which needs several times a program's own memory.
const raced = true
