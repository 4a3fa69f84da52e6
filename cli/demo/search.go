package main

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"unicode/utf16"
)

// finding is one place where something was found.
type finding struct{ file, text string }

// search looks through every file under dir for any of the texts, in the forms that programs write texts in.
func search(dir string, texts []string) (found []finding, files int, err error) {
	err = filepath.WalkDir(dir, func(name string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		files++
		for _, text := range texts {
			for _, form := range forms(text) {
				if bytes.Contains(data, form) {
					found = append(found, finding{file: name, text: text})
					break
				}
			}
		}
		return nil
	})
	if err != nil {
		return nil, 0, fmt.Errorf("searching %s: %w", filepath.Base(dir), err)
	}
	return found, files, nil
}

// forms are the text as it is, as UTF-16, as JSON, in an address, in hexadecimal, and in base64 of either alphabet at
// each of the three alignments.
func forms(text string) [][]byte {
	raw := []byte(text)
	hexadecimal := hex.EncodeToString(raw)
	var wide []byte
	for _, unit := range utf16.Encode([]rune(text)) {
		wide = binary.LittleEndian.AppendUint16(wide, unit)
	}
	all := [][]byte{raw, wide, []byte(hexadecimal), []byte(strings.ToUpper(hexadecimal)), []byte(url.QueryEscape(text)), []byte(url.PathEscape(text))}
	if quoted, err := json.Marshal(text); err == nil {
		all = append(all, bytes.Trim(quoted, `"`))
	}
	all = append(all, []byte(strings.Trim(strconv.QuoteToASCII(text), `"`)))
	for shift := range 3 {
		padded := append(make([]byte, shift), raw...)
		for _, alphabet := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
			encoded := alphabet.EncodeToString(padded[:len(padded)/3*3])
			if shift > 0 {
				encoded = encoded[4:] // depends on what stands before
			}
			all = append(all, []byte(encoded))
		}
	}
	return all
}
