package config

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/viper"
)

const deployments = "../deployments"

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestKubernetesSampleLoads(t *testing.T) {
	manifest := viper.New()
	manifest.SetConfigType("yaml")
	// The ConfigMap is the first document.
	if err := manifest.ReadConfig(strings.NewReader(read(t, filepath.Join(deployments, "kubernetes.yaml")))); err != nil {
		t.Fatal(err)
	}
	text, ok := manifest.GetStringMap("data")["securecomm.yaml"].(string)
	if !ok {
		t.Fatal("no securecomm.yaml in the ConfigMap")
	}
	if _, err := Load(Options{File: write(t, text)}); err != nil {
		t.Error(err)
	}
}

func TestComplementConfigurationLoads(t *testing.T) {
	script := read(t, filepath.Join(deployments, "complement", "start.sh"))
	_, text, _ := strings.Cut(script, "<<YAML\n")
	text, _, found := strings.Cut(text, "\nYAML\n")
	if !found {
		t.Fatal("no configuration in start.sh")
	}
	ca := t.TempDir()
	if err := os.WriteFile(filepath.Join(ca, "ca.crt"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	text = os.Expand(text, func(name string) string {
		_, ifUnset, _ := strings.Cut(name, ":-")
		return map[string]string{"SERVER_NAME": "hs1", "root": "/data", "ca": ca}[name] + ifUnset
	})
	c, err := Load(Options{File: write(t, text)})
	if err != nil {
		t.Fatal(err)
	}
	if c.Server.Name != "hs1" || c.Log.Level != "info" || c.Limits.Enabled || c.Registration.RequireToken {
		t.Errorf("not what Complement needs: %+v", c)
	}
}

// TestDeploymentsNameKnownVariables finds variables in the samples that the server would not read.
func TestDeploymentsNameKnownVariables(t *testing.T) {
	known := []string{"SECURECOMM_BIN", "SECURECOMM_COMPLEMENT_LOG_LEVEL"} // the start script's own
	for _, k := range keysOf(Default()) {
		known = append(known, k.env())
	}
	found := 0
	for _, pattern := range []string{"*", "complement/*"} {
		files, err := filepath.Glob(filepath.Join(deployments, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			if info, err := os.Stat(file); err != nil || info.IsDir() {
				continue
			}
			for _, variable := range regexp.MustCompile(`SECURECOMM_[A-Z_]+`).FindAllString(read(t, file), -1) {
				found++
				if !slices.Contains(known, variable) {
					t.Errorf("%s names %s, which is no key", file, variable)
				}
			}
		}
	}
	if found == 0 {
		t.Error("found no variable at all")
	}
}
