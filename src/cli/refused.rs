//! Commands of Feast that thali does not have. They are refused by name, with what does the same work.

use clap::{ArgMatches, Command, FromArgMatches, Subcommand};

use super::Name;
use crate::error::Error;

/// A command that is refused, and what to do instead.
#[derive(Debug)]
pub(super) struct Refused {
    command: &'static str,
    instead: &'static str,
}

/// Feast's validation runs profiles that are Python; thali's own command of this name is another.
pub(super) const VALIDATE: Refused = Refused {
    command: "validate",
    instead: "run `feast validate` of Feast's SDK against this registry (`registry_type: remote`), or `thali \
              validate`, which compares distributions",
};

const REFUSED: [Refused; 7] = [
    Refused {
        command: "serve_transformations",
        instead: "on-demand views are computed by the online server itself: `feast serve`",
    },
    Refused {
        command: "serve_lineage",
        instead: "lineage is answered by the registry's REST server: `feast serve_registry --rest-api`, \
                  GET /api/v1/lineage/registry",
    },
    Refused {
        command: "monitor",
        instead: "run `feast monitor` of Feast's SDK against this registry (`registry_type: remote`)",
    },
    Refused {
        command: "mcp",
        instead: "run `feast mcp` of Feast's SDK against this registry (`registry_type: remote`)",
    },
    Refused {
        command: "dbt",
        instead: "run `feast dbt` of Feast's SDK against this registry (`registry_type: remote`)",
    },
    Refused {
        command: "mlflow",
        instead: "run `feast mlflow` of Feast's SDK against this registry (`registry_type: remote`)",
    },
    Refused {
        command: "demo-notebooks",
        instead: "`thali demo` serves an example; the notebooks come with Feast's SDK",
    },
];

impl Refused {
    /// What is said about it.
    pub(super) fn error(&self, name: Name) -> Error {
        let binary = match name {
            Name::Thali => "thali",
            Name::Feast => "feast, run by thali,",
        };
        Error::invalid(format!("{binary} has no command `{}`", self.command)).hint(self.instead)
    }

    fn named(name: &str) -> Option<Self> {
        REFUSED.into_iter().find(|refused| refused.command == name)
    }
}

impl Subcommand for Refused {
    fn augment_subcommands(command: Command) -> Command {
        REFUSED.into_iter().fold(command, |command, refused| {
            let anything = clap::Arg::new("arguments")
                .num_args(0..)
                .trailing_var_arg(true)
                .allow_hyphen_values(true);
            let refused = Command::new(refused.command).hide(true).disable_help_flag(true);
            command.subcommand(refused.arg(anything))
        })
    }

    fn augment_subcommands_for_update(command: Command) -> Command {
        Self::augment_subcommands(command)
    }

    fn has_subcommand(name: &str) -> bool {
        Self::named(name).is_some()
    }
}

impl FromArgMatches for Refused {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        matches
            .subcommand_name()
            .and_then(Self::named)
            .ok_or_else(|| clap::Error::new(clap::error::ErrorKind::InvalidSubcommand))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}
