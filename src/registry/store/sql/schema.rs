//! Feast's tables, told once for all databases. Nothing here connects.

use super::dialect::Dialect;
use crate::{database::Engine, model::ObjectKind};

/// What the rows of a table hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Holds {
    Objects(ObjectKind),
    Infra,
    Versions,
}

/// A table with a message in every row.
#[derive(Debug, Clone, Copy)]
pub(super) struct Table {
    pub holds: Holds,
    pub name: &'static str,
    pub key: &'static str,
    pub message: &'static str,
}

const VIEW_KEY: &str = "feature_view_name";
const VIEW_MESSAGE: &str = "feature_view_proto";

/// Every table with messages: those of the kinds in the order of [`ObjectKind::ALL`], then the others.
pub(super) const TABLES: [Table; 13] = [
    objects(ObjectKind::Project, "projects", "project_id", "project_proto"),
    objects(
        ObjectKind::DataSource,
        "data_sources",
        "data_source_name",
        "data_source_proto",
    ),
    objects(ObjectKind::Entity, "entities", "entity_name", "entity_proto"),
    objects(ObjectKind::FeatureView, "feature_views", VIEW_KEY, VIEW_MESSAGE),
    objects(
        ObjectKind::OnDemandFeatureView,
        "on_demand_feature_views",
        VIEW_KEY,
        VIEW_MESSAGE,
    ),
    objects(
        ObjectKind::StreamFeatureView,
        "stream_feature_views",
        VIEW_KEY,
        VIEW_MESSAGE,
    ),
    objects(ObjectKind::LabelView, "label_views", VIEW_KEY, VIEW_MESSAGE),
    objects(
        ObjectKind::FeatureService,
        "feature_services",
        "feature_service_name",
        "feature_service_proto",
    ),
    objects(
        ObjectKind::SavedDataset,
        "saved_datasets",
        "saved_dataset_name",
        "saved_dataset_proto",
    ),
    objects(
        ObjectKind::ValidationReference,
        "validation_references",
        "validation_reference_name",
        "validation_reference_proto",
    ),
    objects(
        ObjectKind::Permission,
        "permissions",
        "permission_name",
        "permission_proto",
    ),
    Table {
        holds: Holds::Infra,
        name: "managed_infra",
        key: "infra_name",
        message: "infra_proto",
    },
    Table {
        holds: Holds::Versions,
        name: "feature_view_version_history",
        key: VIEW_KEY,
        message: VIEW_MESSAGE,
    },
];

/// Where the versions of views are among [`TABLES`].
pub(super) const VERSIONS: usize = 12;
/// Where the infrastructure is among [`TABLES`].
pub(super) const INFRA: usize = 11;
/// The table of free keys.
pub(super) const METADATA: &str = "feast_metadata";
/// The one name `managed_infra` knows.
pub(super) const INFRA_NAME: &str = "infra_obj";
/// The metadata key that holds the time of the last change.
pub(super) const LAST_UPDATED: &str = "last_updated_timestamp";
/// The columns of a version, in the order they are written in.
pub(super) const VERSION_COLUMNS: &str = "feature_view_name, project_id, version_number, feature_view_type, \
     feature_view_proto, created_timestamp, description, version_id";

const fn objects(kind: ObjectKind, name: &'static str, key: &'static str, message: &'static str) -> Table {
    Table {
        holds: Holds::Objects(kind),
        name,
        key,
        message,
    }
}

/// Where the table of `kind` is among [`TABLES`].
pub(super) fn position(kind: ObjectKind) -> usize {
    let of_kind = |table: &Table| table.holds == Holds::Objects(kind);
    TABLES.iter().position(of_kind).unwrap_or_default()
}

impl Table {
    /// What a user calls its rows.
    pub(super) fn label(self) -> &'static str {
        match self.holds {
            Holds::Objects(kind) => kind.label(),
            Holds::Infra => "infrastructure",
            Holds::Versions => "version of feature view",
        }
    }

    pub(super) fn is_projects(self) -> bool {
        self.holds == Holds::Objects(ObjectKind::Project)
    }

    /// What tells rows of a view apart; everything else has one row.
    pub(super) fn number(self) -> &'static str {
        match self.holds {
            Holds::Versions => "version_number",
            _ => "0",
        }
    }
}

/// A table of Feast's as it is made.
#[derive(Debug)]
pub(super) struct Definition {
    pub name: &'static str,
    /// The names of all columns.
    pub columns: Vec<&'static str>,
    /// What makes it with its index.
    pub create: Vec<String>,
}

/// All of Feast's tables.
pub(super) fn definitions(dialect: Dialect) -> Vec<Definition> {
    let messages = TABLES.iter().map(|table| message_table(*table, dialect));
    let metadata = define(
        METADATA,
        &[
            ("project_id", NAME),
            ("metadata_key", "VARCHAR(50) NOT NULL"),
            ("metadata_value", "TEXT NOT NULL"),
            (LAST_UPDATED, TIME),
        ],
        "project_id, metadata_key",
        dialect,
    );
    messages.chain([metadata]).collect()
}

const NAME: &str = "VARCHAR(255) NOT NULL";
const TIME: &str = "BIGINT NOT NULL";

fn message_table(table: Table, dialect: Dialect) -> Definition {
    let (required, optional) = dialect.blob();
    let message = (table.message, required);
    let (columns, key) = match table.holds {
        Holds::Objects(ObjectKind::Project) => {
            let name = ("project_name", NAME);
            let columns = vec![("project_id", NAME), name, (LAST_UPDATED, TIME), message];
            (columns, "project_id".to_owned())
        }
        Holds::Versions => {
            let columns = vec![
                (table.key, NAME),
                ("project_id", NAME),
                ("version_number", "INTEGER NOT NULL"),
                ("feature_view_type", "VARCHAR(50) NOT NULL"),
                message,
                ("created_timestamp", TIME),
                ("description", "TEXT"),
                ("version_id", "VARCHAR(36) NOT NULL"),
            ];
            (columns, format!("{}, project_id, version_number", table.key))
        }
        holds => {
            let mut columns = vec![(table.key, NAME), ("project_id", NAME), (LAST_UPDATED, TIME)];
            let is_view = matches!(holds, Holds::Objects(kind) if kind.is_view());
            if holds == Holds::Objects(ObjectKind::FeatureView) {
                columns.push(("materialized_intervals", optional));
            }
            columns.push(message);
            if is_view {
                columns.push(("user_metadata", optional));
            }
            (columns, format!("{}, project_id", table.key))
        }
    };
    define(table.name, &columns, &key, dialect)
}

fn define(name: &'static str, columns: &[(&'static str, &str)], key: &str, dialect: Dialect) -> Definition {
    let index = match name {
        "feature_view_version_history" => "idx_fv_version_history_project_id".to_owned(),
        _ => format!("idx_{name}_project_id"),
    };
    let listed: Vec<String> = columns
        .iter()
        .map(|(name, kind)| format!("{name} {kind}"))
        .collect();
    let listed = listed.join(", ");
    let create = match dialect.engine {
        // It has no `CREATE INDEX IF NOT EXISTS`. Names that differ in case are different names.
        Engine::MySql => vec![format!(
            "CREATE TABLE IF NOT EXISTS {name} ({listed}, PRIMARY KEY ({key}), INDEX {index} (project_id)) \
             DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"
        )],
        Engine::Sqlite | Engine::Postgres => vec![
            format!("CREATE TABLE IF NOT EXISTS {name} ({listed}, PRIMARY KEY ({key}))"),
            format!("CREATE INDEX IF NOT EXISTS {index} ON {name} (project_id)"),
        ],
    };
    Definition {
        name,
        columns: columns.iter().map(|(name, _)| *name).collect(),
        create,
    }
}
