package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sort"
	"strings"

	"github.com/spf13/pflag"
	"github.com/spf13/viper"
)

// MaxFileSize is the most that a configuration file may have, in bytes.
const MaxFileSize = 1 << 20

// Options are the places a configuration is read from, later ones outweighing earlier ones.
type Options struct {
	File  string         // a YAML file; none if empty
	Env   []string       // "NAME=value" as os.Environ has them; an empty value counts as not set
	Flags *pflag.FlagSet // holds what AddFlags added; nil for none
	// Others are variables that look like ours but belong to other parts of the program.
	Others []string
}

// KeyError says what is wrong with one key. Its text tells how to mend it.
type KeyError struct {
	Key     string // dotted, as in the file
	Where   string // the file, variable or flag that the value came from
	Problem string
}

// Error names the key, the place and the problem.
func (e *KeyError) Error() string {
	if e.Where == "" {
		return e.Key + " " + e.Problem
	}
	return e.Key + " (in " + e.Where + ") " + e.Problem
}

// Load reads and checks the configuration. The error joins a *KeyError for everything that is wrong, so
// that one look at it is enough.
func Load(o Options) (*Config, error) {
	l := loader{viper: viper.New(), where: map[string]string{}}
	known := keysOf(Default())
	if err := l.readFile(o.File, known); err != nil {
		return nil, err
	}
	if err := l.readEnv(o.Env, o.Others, known); err != nil {
		return nil, err
	}
	if err := l.bindFlags(o.Flags, known); err != nil {
		return nil, err
	}
	c := Default()
	if l.dev(known) {
		c = Dev()
	}
	for _, k := range keysOf(c) {
		l.apply(k)
	}
	if len(l.problems) == 0 {
		l.problems = c.check(l.where)
	}
	return c, joinProblems(l.problems)
}

// loader gathers the layers in one viper, and for errors where each value came from.
type loader struct {
	viper    *viper.Viper
	where    map[string]string
	problems []*KeyError
}

func (l *loader) refuse(key, where, problem string) {
	l.problems = append(l.problems, &KeyError{Key: key, Where: where, Problem: problem})
}

func (l *loader) readFile(path string, known []key) error {
	if path == "" {
		return nil
	}
	text, err := readLimited(path)
	if err != nil {
		return err
	}
	file := viper.New()
	file.SetConfigType("yaml")
	if err := file.ReadConfig(bytes.NewReader(text)); err != nil {
		return fmt.Errorf("reading configuration %s: %w", path, err)
	}
	found := file.AllKeys()
	sort.Strings(found)
	for _, name := range found {
		if !isKnown(name, known) {
			l.refuse(name, path, unknownHint(name, known))
			continue
		}
		// Merged key by key, so that "server.name" on one line is the same as name below server.
		if value := file.Get(name); value != nil {
			if err := l.merge(name, value, path); err != nil {
				return err
			}
		}
	}
	return nil
}

func readLimited(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("opening configuration: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, MaxFileSize+1))
	if err != nil {
		return nil, fmt.Errorf("reading configuration %s: %w", path, err)
	}
	if len(text) > MaxFileSize {
		return nil, fmt.Errorf("reading configuration %s: larger than %s; is it the right file?", path, Size(MaxFileSize))
	}
	return text, nil
}

func (l *loader) readEnv(environ, others []string, known []key) error {
	for _, entry := range environ {
		variable, value, _ := strings.Cut(entry, "=")
		if !strings.HasPrefix(variable, envPrefix) || value == "" || slices.Contains(others, variable) {
			continue
		}
		name, ok := keyOfVariable(variable, known)
		if !ok {
			if nearest := misspelledVariable(variable, known); nearest != "" {
				l.refuse(variable, "environment", "is unknown; did you mean "+nearest+"?")
			}
			continue
		}
		if err := l.merge(name, value, variable); err != nil {
			return err
		}
	}
	return nil
}

// merge lays a value over what is there.
func (l *loader) merge(name string, value any, where string) error {
	path := strings.Split(name, ".")
	for i := len(path) - 1; i > 0; i-- {
		value = map[string]any{path[i]: value}
	}
	l.where[name] = where
	if err := l.viper.MergeConfigMap(map[string]any{path[0]: value}); err != nil {
		return fmt.Errorf("merging %s: %w", name, err)
	}
	return nil
}

func (l *loader) bindFlags(flags *pflag.FlagSet, known []key) error {
	if flags == nil {
		return nil
	}
	for _, k := range known {
		flag := flags.Lookup(k.name)
		if flag == nil {
			continue
		}
		if err := l.viper.BindPFlag(k.name, flag); err != nil {
			return fmt.Errorf("binding flag --%s: %w", k.name, err)
		}
		if flag.Changed {
			l.where[k.name] = "--" + k.name
		}
	}
	return nil
}

// dev reads the one key on which the defaults of the others depend.
func (l *loader) dev(known []key) bool {
	for _, k := range known {
		if k.name == "dev" && l.where[k.name] != "" {
			return k.set(l.viper.Get(k.name)) == nil && k.field.Bool()
		}
	}
	return false
}

// apply sets the field of a key that some layer has.
func (l *loader) apply(k key) {
	where := l.where[k.name]
	if where == "" {
		return
	}
	value := l.viper.Get(k.name)
	if err := k.set(value); err != nil {
		problem := "is " + err.Error()
		if text, scalarErr := scalar(value); k.list() {
			problem = err.Error()
		} else if scalarErr == nil && !k.confidential() {
			problem = fmt.Sprintf("is %q, which is %v", text, err)
		}
		l.refuse(k.name, where, problem)
	}
}

func joinProblems(problems []*KeyError) error {
	errs := make([]error, len(problems))
	for i, p := range problems {
		errs[i] = p
	}
	return errors.Join(errs...)
}
