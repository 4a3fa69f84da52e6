package config

import _ "embed"

// Sample is a commented configuration file with every key at its default.
//
//go:embed sample.yaml
var Sample string
