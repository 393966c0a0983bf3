// Package release holds the values that name what runs where. They have no behaviour and cross every wire as JSON.
package release

import (
	"encoding/json"
	"strconv"
	"time"
)

// ID is a release's number in its service and environment: 1, 2, ... Zero means none.
type ID int

// String writes the number.
func (id ID) String() string { return strconv.Itoa(int(id)) }

// Artifact is a bundle: an OCI image index with an image for each platform.
type Artifact struct {
	Digest    string    `json:"digest"` // of the index: sha256:...
	Size      int64     `json:"size"`   // of this platform's programs, in bytes
	Name      string    `json:"name"`   // file name of the program that is started
	Platform  string    `json:"platform"`
	SignedBy  string    `json:"signed_by,omitempty"` // ID of the key
	Version   string    `json:"version,omitempty"`   // of git describe
	Commit    string    `json:"commit,omitempty"`
	Modified  bool      `json:"modified,omitempty"` // built from a tree with changes
	Time      time.Time `json:"time,omitzero"`      // of the commit
	GoVersion string    `json:"go_version"`
	Main      string    `json:"main"` // import path of the main package
}

// Release is an artifact with its resolved configuration. It never changes.
type Release struct {
	Service     string          `json:"service"`
	Environment string          `json:"environment"`
	ID          ID              `json:"id"`
	Artifact    Artifact        `json:"artifact"`
	Config      json.RawMessage `json:"config"` // the resolved spec.Spec
	Created     time.Time       `json:"created"`
	By          string          `json:"by,omitempty"` // user@host
}
