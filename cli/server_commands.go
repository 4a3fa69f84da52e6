package cli

import (
	"github.com/spf13/cobra"

	"github.com/securecomm/securecomm/config"
	"github.com/securecomm/securecomm/homeserver"
)

// serverCommands are the commands of whoever runs a server.
func (a *app) serverCommands() []*cobra.Command {
	return []*cobra.Command{a.serve(), a.configuration()}
}

func (a *app) configuration() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "config",
		Short:   "Check and show a server's configuration",
		Long:    "Checks and shows the configuration that \"serve\" would use: a file, then variables\nSECURECOMM_*, then flags, the later outweighing the earlier.",
		Example: "  securecomm config check --config securecomm.yaml\n  securecomm config print --dev\n  securecomm config sample > securecomm.yaml",
		Args:    cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return unknownCommand(cmd, args[0])
			}
			return cmd.Help()
		},
	}
	check := &cobra.Command{
		Use:     "check",
		Short:   "Say what is wrong with the configuration, if anything",
		Example: "  securecomm config check --config securecomm.yaml",
		Args:    argCount(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.loadConfig(cmd)
			if err != nil {
				return err
			}
			soon, err := homeserver.Check(cmd.Context(), c)
			for _, what := range soon {
				a.note("warning: %s", what)
			}
			if err != nil {
				return &failure{code: exitFailure, err: err, hint: "the configuration is well-formed, but what it names above is not as it has to be"}
			}
			return a.say("The configuration is valid, and what it names is there.")
		},
	}
	show := &cobra.Command{
		Use:     "print",
		Short:   "Show what applies, without secrets",
		Example: "  SECURECOMM_LOG_LEVEL=debug securecomm config print",
		Args:    argCount(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.loadConfig(cmd)
			if err != nil {
				return err
			}
			return c.Print(a.out)
		},
	}
	sample := &cobra.Command{
		Use:     "sample",
		Short:   "Write a commented configuration with every key",
		Example: "  securecomm config sample > securecomm.yaml",
		Args:    argCount(0, 0),
		RunE: func(*cobra.Command, []string) error {
			return a.pour([]byte(config.Sample + "\n"))
		},
	}
	a.configFlags(check)
	a.configFlags(show)
	cmd.AddCommand(check, show, sample)
	return cmd
}

// configFlags adds --config and a flag for every key, for loadConfig to read.
func (a *app) configFlags(cmd *cobra.Command) {
	cmd.Flags().String("config", a.getenv("SECURECOMM_CONFIG"), "YAML file [SECURECOMM_CONFIG]")
	config.AddFlags(cmd.Flags())
}

// ownVariables are those of the commands, which are no keys of the configuration.
var ownVariables = []string{
	"SECURECOMM_CONFIG", "SECURECOMM_HOME", "SECURECOMM_PROFILE", "SECURECOMM_CA_FILE", "SECURECOMM_PASSPHRASE_FILE", "SECURECOMM_REGISTRATION_TOKEN",
}

// loadConfig reads the configuration for a command that has configFlags.
func (a *app) loadConfig(cmd *cobra.Command) (*config.Config, error) {
	file, err := cmd.Flags().GetString("config")
	if err != nil {
		return nil, usageError(cmd, err)
	}
	c, err := config.Load(config.Options{File: file, Env: a.env, Flags: cmd.Flags(), Others: ownVariables})
	if err != nil {
		return nil, &failure{code: exitUsage, err: err,
			hint: `mend what is named above; "securecomm config sample" explains every key`}
	}
	return c, nil
}
