// Command fixed is a service with its port in its code, and not even one that it may have.
package main

import (
	"io"
	"net/http"
	"os"
)

func main() {
	http.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, os.Getenv("FAIRLEAD_INSTANCE")) })
	http.HandleFunc("/self", func(w http.ResponseWriter, _ *http.Request) {
		res, err := http.Get("http://127.0.0.1:80/")
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		defer res.Body.Close()
		io.Copy(w, res.Body)
	})
	if err := http.ListenAndServe("127.0.0.1:80", nil); err != nil {
		io.WriteString(os.Stderr, err.Error()+"\n")
		os.Exit(1)
	}
}
