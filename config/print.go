package config

import (
	"bytes"
	"fmt"
	"io"
	"reflect"
	"strconv"
	"strings"
	"time"
)

// Print writes the configuration as a file that Load takes, with secrets as "***".
func (c *Config) Print(w io.Writer) error {
	var out bytes.Buffer
	var path []string
	for _, k := range keysOf(c) {
		parts := strings.Split(k.name, ".")
		for depth := range len(parts) - 1 {
			if depth < len(path) && path[depth] == parts[depth] {
				continue
			}
			path = path[:min(depth, len(path))]
			path = append(path, parts[depth])
			fmt.Fprintf(&out, "%s%s:\n", strings.Repeat("  ", depth), parts[depth])
		}
		path = path[:len(parts)-1]
		fmt.Fprintf(&out, "%s%s: %s\n", strings.Repeat("  ", len(parts)-1), lastPart(k.name), k.yaml())
	}
	if _, err := w.Write(out.Bytes()); err != nil {
		return fmt.Errorf("printing configuration: %w", err)
	}
	return nil
}

// yaml is the value on one line. Go's quoted strings are valid YAML for every text that has no control
// characters, and those have no place in a configuration.
func (k key) yaml() string {
	if k.list() {
		items := make([]string, k.field.Len())
		for i := range items {
			items[i] = strconv.Quote(fmt.Sprint(k.field.Index(i).Interface()))
		}
		return "[" + strings.Join(items, ", ") + "]"
	}
	switch v := k.field.Interface().(type) {
	case bool, int, Size, Rate:
		return fmt.Sprint(v)
	case time.Duration:
		return formatDuration(v)
	case fmt.Stringer:
		return strconv.Quote(v.String())
	}
	if k.field.Kind() == reflect.String {
		return strconv.Quote(k.field.String())
	}
	return strconv.Quote(fmt.Sprint(k.field.Interface()))
}
