package remote

import (
	"errors"
	"strings"
)

// commandLine makes the one string that sshd gives to the user's login shell, whichever that is. The command is written
// for a POSIX sh, and that as one word which sh, csh and fish all read alike.
func commandLine(args []string) (string, error) {
	script, err := script(args)
	if err != nil {
		return "", err
	}
	return "exec sh -c " + anyShell(script), nil
}

// script writes a command for a POSIX sh, on one line: csh ends a quoted word at a newline, so a newline is in a variable.
func script(args []string) (string, error) {
	if len(args) == 0 || args[0] == "" || args[0][0] == '-' {
		return "", errors.New("a command begins with the name of a program")
	}
	words := make([]string, len(args))
	for i, a := range args {
		if strings.ContainsRune(a, 0) {
			return "", errors.New("an argument of a command has no NUL byte")
		}
		words[i] = posix(a)
	}
	line := "exec " + strings.Join(words, " ")
	if strings.Contains(line, `"$n"`) {
		line = `n=$(printf "\012x"); n=${n%x}; ` + line // a newline at its end would be cut off
	}
	return line, nil
}

const plain = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_@%+:,./-"

func isPlain(s string) bool { return s != "" && strings.Trim(s, plain) == "" }

// posix quotes one argument for a script.
func posix(a string) string {
	if isPlain(a) {
		return a
	}
	return "'" + strings.NewReplacer("'", `'\''`, "\n", `'"$n"'`).Replace(a) + "'"
}

// anyShell quotes one line for a shell of any family. Within single quotes fish reads a backslash and csh may read an
// exclamation mark, so these stand outside of them with a backslash before them, which means the same to all.
func anyShell(line string) string {
	return "'" + strings.NewReplacer("'", `'\''`, `\`, `'\\'`, "!", `'\!'`).Replace(line) + "'"
}
