// Command migrate stands for what changes a database before a release starts: it notes that it ran, and how often.
//
//	MIGRATE=fail   it fails
//	MIGRATE=hang   it goes on until it is ended
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

func main() {
	fmt.Println("migrate", strings.Join(os.Args[1:], " "), "for release", os.Getenv("FAIRLEAD_RELEASE"))
	f, err := os.OpenFile(filepath.Join(os.Getenv("HOME"), "migrations"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err == nil {
		_, err = fmt.Fprintln(f, os.Getenv("FAIRLEAD_RELEASE"), os.Args[1:])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	switch os.Getenv("MIGRATE") {
	case "fail":
		fmt.Fprintln(os.Stderr, "column price exists already")
		os.Exit(3)
	case "hang":
		time.Sleep(time.Hour)
	}
}
