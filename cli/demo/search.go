package main

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// finding is one place where something was found.
type finding struct{ file, text string }

// search looks through every file under dir for any of the texts: as it is, in hexadecimal, and in base64
// at each of the three alignments.
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

func forms(text string) [][]byte {
	raw := []byte(text)
	all := [][]byte{raw, []byte(hex.EncodeToString(raw))}
	for shift := range 3 {
		padded := append(make([]byte, shift), raw...)
		encoded := base64.RawStdEncoding.EncodeToString(padded[:len(padded)/3*3])
		if shift > 0 {
			encoded = encoded[4:] // depends on what stands before
		}
		all = append(all, []byte(encoded))
	}
	return all
}
