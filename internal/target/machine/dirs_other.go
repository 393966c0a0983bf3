//go:build !unix

package machine

import "errors"

func (m *Machine) serviceDir(string, string) (string, error) {
	return "", errors.New("a machine that runs services is Linux or macOS")
}
