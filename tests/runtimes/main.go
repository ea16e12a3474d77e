package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
)

func main() {
	for _, model := range os.Args[2:] {
		body := strings.NewReader(fmt.Sprintf(`{"model": %q, "messages": []}`, model))
		answer, err := http.Post(os.Args[1], "application/json", body)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		text, _ := io.ReadAll(answer.Body)
		fmt.Println(string(text))
	}
}
