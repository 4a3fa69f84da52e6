package main

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestSearch: what a server might make of a text does not hide it.
func TestSearch(t *testing.T) {
	const text = "\"Caf\u00e9 <at> nine?\" ~ Bob\tsaid >>> so"
	quoted, err := json.Marshal(text)
	if err != nil {
		t.Fatal(err)
	}
	hidden := map[string]string{
		"as it is":        text,
		"JSON":            string(quoted),
		"ASCII JSON":      strings.ReplaceAll(strings.ReplaceAll(strings.ReplaceAll(text, `"`, `\"`), "\t", `\t`), "\u00e9", `\u00e9`),
		"hexadecimal":     hex.EncodeToString([]byte(text)),
		"upper case":      strings.ToUpper(hex.EncodeToString([]byte(text))),
		"an address":      "https://one.example/" + url.PathEscape(text),
		"a query":         "q=" + url.QueryEscape(text),
		"base64":          base64.StdEncoding.EncodeToString([]byte(text)),
		"base64, later":   base64.StdEncoding.EncodeToString([]byte("x" + text)),
		"URL-safe base64": base64.URLEncoding.EncodeToString([]byte("xy" + text + "z")),
		"UTF-16":          strings.Join(strings.Split(strings.ReplaceAll(text, "\u00e9", "\xe9"), ""), "\x00") + "\x00",
	}
	for name, content := range hidden {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "file"), []byte("before"+content+"behind"), 0o600); err != nil {
			t.Fatal(err)
		}
		found, files, err := search(dir, []string{"something else", text})
		if err != nil || files != 1 || len(found) != 1 || found[0].text != text {
			t.Errorf("%s: found %v in %d files, %v", name, found, files, err)
		}
	}
}
