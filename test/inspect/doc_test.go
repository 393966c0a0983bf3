// Package inspect_test compares what internal/inspect says of files with what the tools say that everybody trusts (readelf,
// file, ldd, go version -m), and its verdict with what this machine does when it is told to start them.
package inspect_test
