//! [`Command`]: what a Flight descriptor's bytes ask for, read once into types.
//!
//! Commands are JSON objects with an `api` name and its parameters; parameters that are not known are
//! passed over, since newer SDKs may add some.

use chrono::{DateTime, NaiveDateTime, Utc};
use prost::Message;
use serde_json::{Map, Value as Json};
use uuid::Uuid;

use super::beyond::{GIVEN_ROWS, KNOWN_AS_OF, NOTE, ONCE};
use crate::{
    error::{Error, Result},
    model::object::dynamic_from_json,
    proto::feast::core::DataSource,
};

/// A parsed command.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Command {
    Read(Read),
    Write(Write),
}

/// A command that answers rows.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Read {
    Historical(Historical),
    Pull(PullCommand),
    /// The columns of a source and their types.
    Columns(Box<DataSource>),
    /// The text that was kept with the rows of a source.
    Note {
        data_source: String,
    },
}

/// A command that answers nothing.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Write {
    Append {
        view: String,
        once: Option<Uuid>,
    },
    Logs {
        service: String,
        once: Option<Uuid>,
    },
    Persist {
        data_source: String,
        allow_overwrite: bool,
        timeout: Option<f64>,
        rows: Persisted,
    },
    Validate(Box<DataSource>),
}

/// What is persisted.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Persisted {
    /// What a read answers.
    Read(Read),
    /// The rows that came with the command.
    Given {
        /// Where they are to lie, if that is registered nowhere.
        place: Option<Box<DataSource>>,
        note: Option<String>,
    },
}

/// `get_historical_features`.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Historical {
    pub(super) project: String,
    pub(super) references: Vec<String>,
    /// View name and alias, of views that have one.
    pub(super) aliases: Vec<(String, String)>,
    pub(super) full_feature_names: bool,
    pub(super) known_as_of: bool,
    pub(super) start: Option<DateTime<Utc>>,
    pub(super) end: Option<DateTime<Utc>>,
    pub(super) sql: Option<String>,
}

/// `pull_latest_from_table_or_query` and `pull_all_from_table_or_query`.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct PullCommand {
    pub(super) latest_only: bool,
    pub(super) data_source: String,
    pub(super) join_keys: Vec<String>,
    pub(super) features: Vec<String>,
    pub(super) timestamp_field: String,
    pub(super) created_column: Option<String>,
    pub(super) start: Option<DateTime<Utc>>,
    pub(super) end: Option<DateTime<Utc>>,
}

impl Read {
    /// The name under which it is counted.
    pub(super) fn api(&self) -> &'static str {
        match self {
            Self::Historical(_) => "get_historical_features",
            Self::Pull(pull) if pull.latest_only => "pull_latest_from_table_or_query",
            Self::Pull(_) => "pull_all_from_table_or_query",
            Self::Columns(_) => "get_table_column_names_and_types_from_data_source",
            Self::Note { .. } => NOTE,
        }
    }
}

impl Command {
    /// The name under which it is counted.
    pub(super) fn api(&self) -> &'static str {
        match self {
            Self::Read(read) => read.api(),
            Self::Write(Write::Append { .. }) => "offline_write_batch",
            Self::Write(Write::Logs { .. }) => "write_logged_features",
            Self::Write(Write::Persist { .. }) => "persist",
            Self::Write(Write::Validate(_)) => "validate_data_source",
        }
    }

    /// Reads a descriptor's bytes; `None` when there is no `api` in it.
    ///
    /// # Errors
    /// `InvalidArgument` naming the parameter that is missing or of another type, `Unsupported` for an
    /// unknown `api`.
    pub(super) fn parse(bytes: &[u8]) -> Result<Option<Self>> {
        let json: Json = serde_json::from_slice(bytes)
            .map_err(|error| Error::invalid(format!("the command is not valid JSON: {error}")))?;
        let Json::Object(object) = json else {
            return Err(Error::invalid("the command is no JSON object"));
        };
        let parameters = Parameters(&object);
        let Some(api) = parameters.optional("api", Json::as_str)? else {
            return Ok(None);
        };
        if let Some(read) = read(api, &parameters)? {
            return Ok(Some(Self::Read(read)));
        }
        Ok(Some(Self::Write(match api {
            "offline_write_batch" => Write::Append {
                view: only(parameters.texts("feature_view_names")?)?,
                once: parameters.once()?,
            },
            "write_logged_features" => Write::Logs {
                service: parameters.text("feature_service_name")?,
                once: parameters.once()?,
            },
            "validate_data_source" => Write::Validate(Box::new(parameters.data_source()?)),
            "persist" => {
                let name = parameters.text("retrieve_func")?;
                Write::Persist {
                    data_source: parameters.text("data_source_name")?,
                    allow_overwrite: parameters.flag("allow_overwrite")?,
                    timeout: parameters.optional("timeout", Json::as_f64)?,
                    rows: match name.as_str() {
                        GIVEN_ROWS => Persisted::Given {
                            place: parameters.optional_data_source()?.map(Box::new),
                            note: parameters.optional(NOTE, Json::as_str)?.map(str::to_owned),
                        },
                        name => Persisted::Read(read(name, &parameters)?.ok_or_else(|| unknown(name))?),
                    },
                }
            }
            other => return Err(unknown(other)),
        })))
    }
}

fn read(api: &str, parameters: &Parameters<'_>) -> Result<Option<Read>> {
    Ok(Some(match api {
        "get_historical_features" => Read::Historical(historical(parameters)?),
        "pull_latest_from_table_or_query" => Read::Pull(pull(parameters, true)?),
        "pull_all_from_table_or_query" => Read::Pull(pull(parameters, false)?),
        "get_table_column_names_and_types_from_data_source" => {
            Read::Columns(Box::new(parameters.data_source()?))
        }
        NOTE => Read::Note {
            data_source: parameters.text("data_source_name")?,
        },
        _ => return Ok(None),
    }))
}

fn historical(parameters: &Parameters<'_>) -> Result<Historical> {
    let views = parameters.texts("feature_view_names")?;
    let aliases = parameters.list("name_aliases")?;
    if views.len() != aliases.len() {
        return Err(Error::invalid(
            "`name_aliases` has not one entry for each of `feature_view_names`",
        ));
    }
    let named = views
        .into_iter()
        .zip(aliases)
        .filter_map(|(view, alias)| Some((view, alias.as_str()?.to_owned())));
    Ok(Historical {
        project: parameters.text("project")?,
        references: parameters.texts("feature_refs")?,
        aliases: named.collect(),
        full_feature_names: parameters.flag("full_feature_names")?,
        known_as_of: parameters
            .optional(KNOWN_AS_OF, Json::as_bool)?
            .unwrap_or_default(),
        start: parameters.time("start_date")?,
        end: parameters.time("end_date")?,
        sql: parameters
            .optional("entity_df_sql", Json::as_str)?
            .map(str::to_owned),
    })
}

fn pull(parameters: &Parameters<'_>, latest_only: bool) -> Result<PullCommand> {
    Ok(PullCommand {
        latest_only,
        data_source: parameters.text("data_source_name")?,
        join_keys: parameters.texts("join_key_columns")?,
        features: parameters.texts("feature_name_columns")?,
        timestamp_field: parameters.text("timestamp_field")?,
        created_column: parameters
            .optional("created_timestamp_column", Json::as_str)?
            .map(str::to_owned),
        start: parameters.time("start_date")?,
        end: parameters.time("end_date")?,
    })
}

fn unknown(api: &str) -> Error {
    Error::unsupported(format!("unknown api `{api}`"))
}

fn only(views: Vec<String>) -> Result<String> {
    match <[String; 1]>::try_from(views) {
        Ok([view]) => Ok(view),
        Err(views) => Err(Error::invalid(format!(
            "rows are written to one feature view, not to {}",
            views.len()
        ))),
    }
}

/// The parameters of a command, read by name.
struct Parameters<'a>(&'a Map<String, Json>);

impl<'a> Parameters<'a> {
    fn required(&self, name: &str) -> Result<&'a Json> {
        let found = self.0.get(name).filter(|value| !value.is_null());
        found.ok_or_else(|| Error::invalid(format!("the command lacks `{name}`")))
    }

    fn optional<T>(&self, name: &str, read: impl FnOnce(&'a Json) -> Option<T>) -> Result<Option<T>> {
        match self.0.get(name) {
            None | Some(Json::Null) => Ok(None),
            Some(value) => read(value).map(Some).ok_or_else(|| wrong_type(name)),
        }
    }

    fn text(&self, name: &str) -> Result<String> {
        self.required(name)?
            .as_str()
            .map(str::to_owned)
            .ok_or_else(|| wrong_type(name))
    }

    fn flag(&self, name: &str) -> Result<bool> {
        self.required(name)?.as_bool().ok_or_else(|| wrong_type(name))
    }

    fn list(&self, name: &str) -> Result<&'a Vec<Json>> {
        self.required(name)?.as_array().ok_or_else(|| wrong_type(name))
    }

    fn texts(&self, name: &str) -> Result<Vec<String>> {
        let text = |value: &Json| value.as_str().map(str::to_owned).ok_or_else(|| wrong_type(name));
        self.list(name)?.iter().map(text).collect()
    }

    /// ISO 8601 as Python writes it; naive is UTC.
    fn time(&self, name: &str) -> Result<Option<DateTime<Utc>>> {
        let Some(text) = self.optional(name, Json::as_str)? else {
            return Ok(None);
        };
        let aware = DateTime::parse_from_rfc3339(text).map(|time| time.with_timezone(&Utc));
        let naive = |format| NaiveDateTime::parse_from_str(text, format).map(|time| time.and_utc());
        let time = aware
            .or_else(|_| naive("%Y-%m-%dT%H:%M:%S%.f"))
            .or_else(|_| naive("%Y-%m-%d %H:%M:%S%.f"));
        time.map(Some)
            .map_err(|_| Error::invalid(format!("`{name}` is no ISO 8601 time: `{text}`")))
    }

    /// The name of a write that is to happen once.
    fn once(&self) -> Result<Option<Uuid>> {
        let text = self.optional(ONCE, Json::as_str)?;
        let name = text.map(|text| text.parse().map_err(|_| wrong_type(ONCE)));
        name.transpose()
    }

    fn data_source(&self) -> Result<DataSource> {
        let source = self.optional_data_source()?;
        source.ok_or_else(|| Error::invalid("the command lacks `data_source_proto`"))
    }

    /// A data source as protobuf's JSON in a text.
    fn optional_data_source(&self) -> Result<Option<DataSource>> {
        let Some(text) = self.optional("data_source_proto", Json::as_str)? else {
            return Ok(None);
        };
        let json = serde_json::from_str(text)
            .map_err(|error| Error::invalid(format!("`data_source_proto` is not valid JSON: {error}")))?;
        let message = dynamic_from_json("feast.core.DataSource", &json)?;
        Ok(Some(DataSource::decode(message.encode_to_vec().as_slice())?))
    }
}

fn wrong_type(name: &str) -> Error {
    Error::invalid(format!("`{name}` of the command has the wrong type"))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, clippy::panic, reason = "tests")]
mod tests {
    use super::*;
    use crate::{error::Kind, proto::feast::core::data_source::Options};

    fn recorded(call: &str) -> Option<Command> {
        let all: Json = serde_json::from_str(include_str!("../../../tests/wire/flight.json")).unwrap();
        let commands = all["commands"].as_array().unwrap();
        // A write is recorded after the look at the columns that the SDK begins with.
        let command = commands.iter().rfind(|command| command["call"] == call).unwrap();
        Command::parse(command["command"].to_string().as_bytes()).unwrap()
    }

    fn historical(call: &str) -> Historical {
        match recorded(call) {
            Some(Command::Read(Read::Historical(historical))) => historical,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_recorded_command_is_understood() {
        let plain = historical("ghf");
        assert_eq!(plain.references, ["driver_fv:trips", "driver_fv:conv_rate"]);
        assert!(plain.aliases.is_empty() && !plain.full_feature_names && plain.start.is_none());
        assert!(historical("ghf_full").full_feature_names);
        let dates = historical("ghf_dates");
        assert_eq!(dates.start.unwrap().to_rfc3339(), "2026-11-20T00:00:00+00:00");
        assert_eq!(dates.end.unwrap().to_rfc3339(), "2026-11-21T12:00:00+00:00");
        assert!(historical("ghf_sql").sql.unwrap().starts_with("select"));
        assert_eq!(historical("ghf_odfv").references.len(), 7);
        let Some(Command::Read(Read::Pull(pull))) = recorded("pull_latest") else {
            panic!()
        };
        assert!(pull.latest_only && pull.created_column.as_deref() == Some("created"));
        assert_eq!(pull.end.unwrap().to_rfc3339(), "2026-11-22T00:00:00+00:00");
        let Some(Command::Read(Read::Pull(pull))) = recorded("pull_all") else {
            panic!()
        };
        assert!(!pull.latest_only);
        let Some(Command::Read(Read::Columns(source))) = recorded("columns") else {
            panic!()
        };
        assert_eq!(
            (source.name.as_str(), source.timestamp_field.as_str()),
            ("driver_src", "event_timestamp")
        );
        let Some(Options::FileOptions(options)) = &source.options else {
            panic!()
        };
        assert_eq!(options.uri, "data/driver.parquet");
        assert!(matches!(
            recorded("validate"),
            Some(Command::Write(Write::Validate(_)))
        ));
        assert_eq!(
            recorded("offline_write"),
            Some(Command::Write(Write::Append {
                view: "driver_fv".to_owned(),
                once: None,
            }))
        );
        assert_eq!(
            recorded("write_logs"),
            Some(Command::Write(Write::Logs {
                service: "fs1".to_owned(),
                once: None,
            }))
        );
    }

    #[test]
    fn what_is_wrong_with_a_command_is_named() {
        let parse = |text: &str| Command::parse(text.as_bytes());
        assert_eq!(parse("{\"command_id\": \"1\"}").unwrap(), None);
        let cases = [
            ("nonsense", Kind::InvalidArgument, "JSON"),
            ("[]", Kind::InvalidArgument, "no JSON object"),
            ("{\"api\": 3}", Kind::InvalidArgument, "`api`"),
            ("{\"api\": \"drop_tables\"}", Kind::Unsupported, "`drop_tables`"),
            (
                "{\"api\": \"write_logged_features\"}",
                Kind::InvalidArgument,
                "lacks `feature_service_name`",
            ),
            (
                "{\"api\": \"offline_write_batch\", \"feature_view_names\": []}",
                Kind::InvalidArgument,
                "not to 0",
            ),
            (
                "{\"api\": \"validate_data_source\", \"data_source_proto\": \"{\"}",
                Kind::InvalidArgument,
                "JSON",
            ),
        ];
        for (text, kind, part) in cases {
            let error = parse(text).unwrap_err();
            assert_eq!(error.kind(), kind, "{text}");
            assert!(error.message().contains(part), "{part} in {error}");
        }
    }

    #[test]
    fn a_persisted_read_keeps_its_parameters() {
        let text = r#"{"api": "persist", "retrieve_func": "pull_all_from_table_or_query", "data_source_name": "target",
            "allow_overwrite": true, "timeout": null, "join_key_columns": [], "feature_name_columns": ["x"],
            "timestamp_field": "ts", "start_date": null, "end_date": "2026-01-01T00:00:00.5+01:00"}"#;
        let Some(Command::Write(Write::Persist {
            data_source,
            rows: Persisted::Read(Read::Pull(pull)),
            ..
        })) = Command::parse(text.as_bytes()).unwrap()
        else {
            panic!()
        };
        assert_eq!((data_source.as_str(), pull.start), ("target", None));
        assert_eq!(pull.end.unwrap().to_rfc3339(), "2025-12-31T23:00:00.500+00:00");
    }

    #[test]
    fn what_is_beyond_feast_is_understood() {
        let parse = |text: &str| Command::parse(text.as_bytes());
        let id = "0190163d-8694-739b-aea5-966c26f8ad91";
        let text =
            format!(r#"{{"api": "write_logged_features", "feature_service_name": "f", "{ONCE}": "{id}"}}"#);
        let logs = Write::Logs {
            service: "f".to_owned(),
            once: Some(id.parse().unwrap()),
        };
        assert_eq!(parse(&text).unwrap(), Some(Command::Write(logs)));
        let refused = parse(&text.replace(id, "../../etc")).unwrap_err();
        assert!(refused.message().contains(ONCE), "{refused}");
        let text = format!(
            r#"{{"api": "persist", "retrieve_func": "{GIVEN_ROWS}", "data_source_name": "kept", "allow_overwrite": false, "{NOTE}": "n"}}"#
        );
        let Some(Command::Write(Write::Persist { rows, .. })) = parse(&text).unwrap() else {
            panic!()
        };
        let note = Some("n".to_owned());
        assert_eq!(rows, Persisted::Given { place: None, note });
        let text = format!(r#"{{"api": "{NOTE}", "data_source_name": "kept"}}"#);
        let data_source = "kept".to_owned();
        assert_eq!(
            parse(&text).unwrap(),
            Some(Command::Read(Read::Note { data_source }))
        );
    }
}
