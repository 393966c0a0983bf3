package home

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
)

// Cache is a folder for what can be made again, below the user's cache folder. It need not exist.
func Cache(name string) (string, error) {
	user, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	return filepath.Join(user, "fairlead", name), nil
}

// Key makes a short file name of what something is kept for.
func Key(of string) string {
	sum := sha256.Sum256([]byte(of))
	return hex.EncodeToString(sum[:8])
}
