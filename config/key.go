package config

import (
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/securecomm/securecomm/homeserver/id"
)

const envPrefix = "SECURECOMM_"

// key is one leaf of Config: its dotted name and the field behind it.
type key struct {
	name  string
	field reflect.Value
}

// keysOf lists the leaves of c in the order of the struct. Setting a field sets it in c.
func keysOf(c *Config) []key {
	return appendKeys(nil, "", reflect.ValueOf(c).Elem())
}

func appendKeys(keys []key, prefix string, section reflect.Value) []key {
	for i := range section.NumField() {
		name := prefix + section.Type().Field(i).Tag.Get("key")
		field := section.Field(i)
		if _, rate := field.Interface().(Rate); field.Kind() == reflect.Struct && !rate {
			keys = appendKeys(keys, name+".", field)
			continue
		}
		keys = append(keys, key{name, field})
	}
	return keys
}

// env is the variable that sets the key.
func (k key) env() string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(k.name, ".", "_"))
}

// secret says whether the value must not be shown or given on a command line, which others can read.
func (k key) secret() bool {
	_, ok := k.field.Interface().(Secret)
	return ok
}

// confidential says whether a refused value may be repeated in an error.
func (k key) confidential() bool {
	_, url := k.field.Interface().(DatabaseURL)
	return url || k.secret()
}

func (k key) list() bool { return k.field.Kind() == reflect.Slice }

// set parses what a file, a variable or a flag says into the field.
func (k key) set(value any) error {
	switch p := k.field.Addr().Interface().(type) {
	case *[]string:
		return setList(p, value, func(s string) (string, error) { return s, nil })
	case *[]netip.Prefix:
		return setList(p, value, parseNetwork)
	case *[]id.ServerName:
		return setList(p, value, parseServerName)
	case *[]OldKey:
		return setList(p, value, parseOldKey)
	}
	text, err := scalar(value)
	if err != nil {
		return err
	}
	return k.setText(text)
}

func (k key) setText(text string) error {
	switch p := k.field.Addr().Interface().(type) {
	case *string:
		*p = text
		return nil
	case *Secret:
		*p = Secret(text)
		return nil
	case *bool:
		return setParsed(p, text, parseBool)
	case *int:
		return setParsed(p, text, parseCount)
	case *time.Duration:
		return setParsed(p, text, parseDuration)
	case *Size:
		return setParsed(p, text, parseSize)
	case *Rate:
		return setParsed(p, text, parseRate)
	case *id.ServerName:
		return setParsed(p, text, parseServerName)
	case *DatabaseURL:
		if text == "" {
			*p = ""
			return nil
		}
		return setParsed(p, text, parseDatabaseURL)
	}
	return fmt.Errorf("has a type that the configuration does not know: %s", k.field.Type())
}

func setParsed[T any](field *T, text string, parse func(string) (T, error)) error {
	value, err := parse(text)
	if err == nil {
		*field = value
	}
	return err
}

// setList takes a YAML list, or a text with commas as variables and flags have it.
func setList[T any](field *[]T, value any, parse func(string) (T, error)) error {
	var items []any
	switch v := value.(type) {
	case []any:
		items = v
	case string:
		for item := range strings.SplitSeq(v, ",") {
			if item = strings.TrimSpace(item); item != "" {
				items = append(items, item)
			}
		}
	default:
		return errors.New(`is not a list; write ["one", "two"]`)
	}
	list := make([]T, 0, len(items))
	for _, item := range items {
		text, err := scalar(item)
		if err != nil {
			return fmt.Errorf("has an entry that is %w", err)
		}
		parsed, err := parse(text)
		if err != nil {
			return fmt.Errorf("has the entry %q, which is %w", text, err)
		}
		list = append(list, parsed)
	}
	*field = list
	return nil
}

// scalar is the text of a single YAML value.
func scalar(value any) (string, error) {
	switch v := value.(type) {
	case string:
		return v, nil
	case bool, int, int64, uint64:
		return fmt.Sprint(v), nil
	case float64, time.Time:
		return "", errors.New("not written as a text; put it in quotes")
	}
	return "", errors.New("not a single value; a list or a section stands there")
}

func parseBool(s string) (bool, error) {
	switch strings.ToLower(s) {
	case "true", "yes", "on", "1":
		return true, nil
	case "false", "no", "off", "0":
		return false, nil
	}
	return false, errors.New("neither true nor false; write one of them")
}

func parseCount(s string) (int, error) {
	n, err := strconv.Atoi(s)
	if err != nil || n < 0 {
		return 0, errors.New("not a number; write a whole number that is not negative, without a unit")
	}
	return n, nil
}

func parseNetwork(s string) (netip.Prefix, error) {
	if addr, err := netip.ParseAddr(s); err == nil && addr.Zone() == "" {
		return netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return p, errors.New(`not a network; write it as "10.0.0.0/8" or "fd00::/8"`)
	}
	return p.Masked(), nil
}

func parseServerName(s string) (id.ServerName, error) {
	name, err := id.ParseServerName(s)
	if err != nil {
		return "", errors.New(`not a server name; write a host name and perhaps a port, such as "example.org"`)
	}
	return name, nil
}
