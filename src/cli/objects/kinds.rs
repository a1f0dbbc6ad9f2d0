//! The table of kinds: what each is called on the command line and what a list of them shows, under
//! either name of the binary.

use serde_json::Value as Json;

use crate::{
    model::{Object, ObjectKind, feature_view::DUMMY_ENTITY_NAME, on_demand::OnDemandInput},
    registry::{Catalog, View},
};

/// One group of commands.
#[derive(Debug)]
pub(super) struct Group {
    /// As typed.
    pub(super) command: &'static str,
    pub(super) about: &'static str,
    /// What `describe` and `delete` look through, in this order, and what `list` lists.
    pub(super) kinds: &'static [ObjectKind],
    pub(super) columns: &'static [Column],
    /// What Feast's command lists.
    pub(super) feast_kinds: &'static [ObjectKind],
    pub(super) feast_columns: &'static [Column],
    pub(super) more: More,
}

/// Commands of a group that others do not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum More {
    None,
    Projects,
    Views,
    Permissions,
}

/// A header and what stands below it.
pub(super) type Column = (&'static str, fn(&Row<'_>) -> String);

/// One object to be listed.
pub(super) struct Row<'a> {
    pub(super) catalog: &'a Catalog,
    pub(super) object: &'a Object,
    pub(super) json: &'a Json,
}

use ObjectKind as Kind;

/// Every group, in the order of the help.
pub(super) const GROUPS: [Group; 11] = [
    Group {
        command: "projects",
        about: "Projects of the registry",
        kinds: &[Kind::Project],
        columns: &[NAME, OWNER, DESCRIPTION, TAGS],
        feast_kinds: &[Kind::Project],
        feast_columns: &[
            NAME,
            DESCRIPTION,
            ("TAGS", |row| python_dict(row.spec("tags"))),
            OWNER,
        ],
        more: More::Projects,
    },
    Group {
        command: "entities",
        about: "Entities of the project",
        kinds: &[Kind::Entity],
        columns: &[
            NAME,
            ("JOIN KEY", |row| row.text("joinKey")),
            ("TYPE", value_type),
            DESCRIPTION,
            TAGS,
        ],
        feast_kinds: &[Kind::Entity],
        feast_columns: &[
            NAME,
            DESCRIPTION,
            ("TYPE", |row| format!("ValueType.{}", value_type(row))),
        ],
        more: More::None,
    },
    Group {
        command: "data-sources",
        about: "Data sources of the project",
        kinds: &[Kind::DataSource],
        columns: &[
            NAME,
            ("TYPE", |row| class(row.object, row.json)),
            DESCRIPTION,
            TAGS,
        ],
        feast_kinds: &[Kind::DataSource],
        feast_columns: &[
            NAME,
            ("CLASS", |row| format!("<class '{}'>", source_class(row.json))),
        ],
        more: More::None,
    },
    Group {
        command: "feature-views",
        about: "Views of the project, of every kind",
        kinds: &Kind::VIEWS,
        columns: &[NAME, KIND, ENTITIES, FEATURE_COUNT, ENABLED, STATE, TAGS],
        feast_kinds: &[Kind::FeatureView, Kind::OnDemandFeatureView],
        feast_columns: &[
            NAME,
            ("ENTITIES", python_set_of_entities),
            ("TYPE", |row| class(row.object, row.json)),
            ENABLED,
            STATE,
        ],
        more: More::Views,
    },
    Group {
        command: "on-demand-feature-views",
        about: "On demand feature views of the project",
        kinds: &[Kind::OnDemandFeatureView],
        columns: &[NAME, ENTITIES, FEATURE_COUNT, ENABLED, TAGS],
        feast_kinds: &[Kind::OnDemandFeatureView],
        feast_columns: &[NAME],
        more: More::None,
    },
    Group {
        command: "stream-feature-views",
        about: "Stream feature views of the project",
        kinds: &[Kind::StreamFeatureView],
        columns: &[NAME, ENTITIES, FEATURE_COUNT, ENABLED, STATE, TAGS],
        feast_kinds: &[Kind::StreamFeatureView],
        feast_columns: &[NAME],
        more: More::None,
    },
    Group {
        command: "label-views",
        about: "Label views of the project",
        kinds: &[Kind::LabelView],
        columns: &[NAME, ENTITIES, FEATURE_COUNT, CONFLICT_POLICY, TAGS],
        feast_kinds: &[Kind::LabelView],
        feast_columns: &[
            NAME,
            ("ENTITIES", |row| or(&entities(row).join(", "), "n/a")),
            CONFLICT_POLICY,
        ],
        more: More::None,
    },
    Group {
        command: "feature-services",
        about: "Feature services of the project",
        kinds: &[Kind::FeatureService],
        columns: &[NAME, FEATURES, DESCRIPTION, TAGS],
        feast_kinds: &[Kind::FeatureService],
        feast_columns: &[NAME, FEATURES],
        more: More::None,
    },
    Group {
        command: "saved-datasets",
        about: "Saved datasets of the project",
        kinds: &[Kind::SavedDataset],
        columns: &[NAME, ("FEATURES", |row| row.texts("features").join(", ")), TAGS],
        feast_kinds: &[Kind::SavedDataset],
        feast_columns: &[NAME],
        more: More::None,
    },
    Group {
        command: "validation-references",
        about: "Validation references of the project",
        kinds: &[Kind::ValidationReference],
        columns: &[
            NAME,
            ("DATASET", |row| row.text("referenceDatasetName")),
            DESCRIPTION,
            TAGS,
        ],
        feast_kinds: &[Kind::ValidationReference],
        feast_columns: &[NAME],
        more: More::None,
    },
    Group {
        command: "permissions",
        about: "Permissions of the project",
        kinds: &[Kind::Permission],
        columns: &PERMISSION,
        feast_kinds: &[Kind::Permission],
        feast_columns: &PERMISSION,
        more: More::Permissions,
    },
];

const NAME: Column = ("NAME", |row| row.object.name.clone());
const OWNER: Column = ("OWNER", |row| row.text("owner"));
const DESCRIPTION: Column = ("DESCRIPTION", |row| row.text("description"));
const TAGS: Column = ("TAGS", |row| pairs(row.spec("tags"), "=").join(","));
const KIND: Column = ("KIND", |row| row.object.kind.label().to_owned());
const ENTITIES: Column = ("ENTITIES", |row| entities(row).join(","));
const FEATURE_COUNT: Column = ("FEATURES", |row| {
    row.spec("features")
        .and_then(Json::as_array)
        .map_or(0, Vec::len)
        .to_string()
});
const ENABLED: Column = ("ENABLED", |row| {
    let disabled = row.spec("disabled").and_then(Json::as_bool).unwrap_or_default();
    if disabled { "No" } else { "Yes" }.to_owned()
});
const STATE: Column = ("STATE", |row| state(row.json).to_owned());
const CONFLICT_POLICY: Column = ("CONFLICT_POLICY", |row| {
    or(&row.text("conflictPolicy"), "LAST_WRITE_WINS").to_lowercase()
});
const FEATURES: Column = ("FEATURES", |row| {
    let mut names = Vec::new();
    for projection in row.items("features") {
        let view = projection
            .get("featureViewName")
            .and_then(Json::as_str)
            .unwrap_or_default();
        let columns = projection.get("featureColumns").and_then(Json::as_array);
        let columns = columns.map(Vec::as_slice).unwrap_or_default();
        let features = columns.iter().filter_map(|column| column.get("name")?.as_str());
        names.extend(features.map(|feature| format!("{view}:{feature}")));
    }
    names.join(", ")
});
const PERMISSION: [Column; 6] = [
    NAME,
    ("TYPES", |row| {
        let names: Vec<String> = row.texts("types").iter().map(|name| camel(name)).collect();
        lines(&names)
    }),
    ("NAME_PATTERNS", |row| lines(&row.texts("namePatterns"))),
    ("ACTIONS", |row| lines(&row.texts("actions"))),
    ("ROLES", |row| {
        let roles = row
            .json
            .pointer("/spec/policy/roleBasedPolicy/roles")
            .and_then(Json::as_array);
        let mut roles: Vec<String> = roles.into_iter().flatten().filter_map(text_of).collect();
        roles.sort();
        roles.dedup();
        lines(&roles)
    }),
    ("REQUIRED_TAGS", |row| {
        lines(&pairs(row.spec("requiredTags"), " : "))
    }),
];

impl Group {
    /// The group of that command.
    pub(super) fn of(command: &str) -> Option<&'static Self> {
        static TABLE: [Group; 11] = GROUPS;
        TABLE.iter().find(|group| group.command == command)
    }

    /// One of them, for sentences.
    pub(super) fn kind(&self) -> ObjectKind {
        self.kinds.first().copied().unwrap_or(ObjectKind::FeatureView)
    }
}

impl<'a> Row<'a> {
    /// A field of the definition; most kinds keep it in `spec`.
    fn spec(&self, field: &str) -> Option<&'a Json> {
        self.json.get("spec").unwrap_or(self.json).get(field)
    }

    fn text(&self, field: &str) -> String {
        self.spec(field).and_then(text_of).unwrap_or_default()
    }

    fn items(&self, field: &str) -> &'a [Json] {
        self.spec(field)
            .and_then(Json::as_array)
            .map(Vec::as_slice)
            .unwrap_or_default()
    }

    fn texts(&self, field: &str) -> Vec<String> {
        self.items(field).iter().filter_map(text_of).collect()
    }
}

/// The name Feast's Python class has, for one object.
pub(in super::super) fn class(object: &Object, json: &Json) -> String {
    let path = match object.kind {
        ObjectKind::DataSource => source_class(json),
        kind => kind.message_name(),
    };
    path.rsplit('.').next().unwrap_or(path).to_owned()
}

/// The Python class of a data source (`feast/data_source.py`, the table of source types).
fn source_class(json: &Json) -> &str {
    let text = |key| json.get(key).and_then(Json::as_str).unwrap_or_default();
    match text("type") {
        "BATCH_FILE" => "feast.infra.offline_stores.file_source.FileSource",
        "BATCH_BIGQUERY" => "feast.infra.offline_stores.bigquery_source.BigQuerySource",
        "BATCH_REDSHIFT" => "feast.infra.offline_stores.redshift_source.RedshiftSource",
        "BATCH_SNOWFLAKE" => "feast.infra.offline_stores.snowflake_source.SnowflakeSource",
        "BATCH_TRINO" => "feast.infra.offline_stores.contrib.trino_offline_store.trino_source.TrinoSource",
        "BATCH_SPARK" => "feast.infra.offline_stores.contrib.spark_offline_store.spark_source.SparkSource",
        "BATCH_ATHENA" => {
            "feast.infra.offline_stores.contrib.athena_offline_store.athena_source.AthenaSource"
        }
        "BATCH_ICEBERG" => "feast.infra.data_sources.contrib.iceberg_catalog.iceberg_source.IcebergSource",
        "STREAM_KAFKA" => "feast.data_source.KafkaSource",
        "STREAM_KINESIS" => "feast.data_source.KinesisSource",
        "REQUEST_SOURCE" => "feast.data_source.RequestSource",
        "PUSH_SOURCE" => "feast.data_source.PushSource",
        _ => text("dataSourceClassType"),
    }
}

/// The state of a view's life.
pub(in super::super) fn state(json: &Json) -> &str {
    let state = json.pointer("/meta/state").and_then(Json::as_str);
    state.unwrap_or("STATE_UNSPECIFIED")
}

fn value_type(row: &Row<'_>) -> String {
    or(&row.text("valueType"), "UNKNOWN")
}

/// Names of the entities of a view; an on-demand view has those of the views it reads.
fn entities(row: &Row<'_>) -> Vec<String> {
    let mut names = match row.catalog.view(&row.object.name) {
        Some(View::Stored(view)) => view.entities.clone(),
        Some(View::OnDemand(view)) => {
            let mut names = Vec::new();
            for input in &view.inputs {
                if let OnDemandInput::View { view, .. } = input
                    && let Ok(source) = row.catalog.stored_view(view)
                {
                    names.extend(source.entities.iter().cloned());
                }
            }
            names
        }
        None => Vec::new(),
    };
    names.retain(|name| name != DUMMY_ENTITY_NAME);
    let mut seen = std::collections::HashSet::new();
    names.retain(|name| seen.insert(name.clone()));
    names
}

/// As Python prints a set of them; in the order of the alphabet, where Python has none.
fn python_set_of_entities(row: &Row<'_>) -> String {
    let mut names = entities(row);
    if names.is_empty() {
        return "n/a".to_owned();
    }
    names.sort();
    let quoted: Vec<String> = names.iter().map(|name| python_text(name)).collect();
    format!("{{{}}}", quoted.join(", "))
}

fn python_dict(tags: Option<&Json>) -> String {
    let tags = tags.and_then(Json::as_object).into_iter().flatten();
    let pairs: Vec<String> = tags
        .map(|(key, value)| {
            let value = text_of(value).unwrap_or_default();
            format!("{}: {}", python_text(key), python_text(&value))
        })
        .collect();
    format!("{{{}}}", pairs.join(", "))
}

fn python_text(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') {
        '"'
    } else {
        '\''
    };
    let escaped = text.replace('\\', "\\\\").replace('\n', "\\n");
    let escaped = if quote == '\'' {
        escaped.replace('\'', "\\'")
    } else {
        escaped
    };
    format!("{quote}{escaped}{quote}")
}

fn pairs(tags: Option<&Json>, between: &str) -> Vec<String> {
    let tags = tags.and_then(Json::as_object).into_iter().flatten();
    tags.map(|(key, value)| format!("{key}{between}{}", text_of(value).unwrap_or_default()))
        .collect()
}

fn text_of(value: &Json) -> Option<String> {
    value.as_str().map(str::to_owned)
}

fn or(text: &str, default: &str) -> String {
    if text.is_empty() { default } else { text }.to_owned()
}

fn lines(items: &[String]) -> String {
    or(&items.join("\n"), "-")
}

/// `FEATURE_VIEW` as `FeatureView`.
pub(in super::super) fn camel(name: &str) -> String {
    let word = |word: &str| {
        let (first, rest) = word.split_at_checked(1).unwrap_or((word, ""));
        format!("{first}{}", rest.to_lowercase())
    };
    name.split('_').map(word).collect()
}
