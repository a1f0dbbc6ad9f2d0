//! Feast's tables and the statements on them, told once for all dialects. Nothing here connects.

use crate::model::ObjectKind;

/// What differs between databases.
#[derive(Debug, Clone, Copy)]
pub(super) struct Dialect {
    /// The type of columns that hold messages.
    pub blob: &'static str,
    /// What rows are ordered by so that they come back in the order they were first written.
    pub arrival: &'static str,
}

pub(super) const SQLITE: Dialect = Dialect {
    blob: "BLOB",
    arrival: "rowid",
};

/// The table of an object kind.
#[derive(Debug, Clone, Copy)]
pub(super) struct Table {
    pub kind: ObjectKind,
    pub name: &'static str,
    pub key: &'static str,
    pub message: &'static str,
}

/// Every kind's table.
pub(super) const TABLES: [Table; 11] = [
    table(ObjectKind::Project, "projects", "project_id", "project_proto"),
    table(
        ObjectKind::DataSource,
        "data_sources",
        "data_source_name",
        "data_source_proto",
    ),
    table(ObjectKind::Entity, "entities", "entity_name", "entity_proto"),
    table(ObjectKind::FeatureView, "feature_views", VIEW_KEY, VIEW_MESSAGE),
    table(
        ObjectKind::OnDemandFeatureView,
        "on_demand_feature_views",
        VIEW_KEY,
        VIEW_MESSAGE,
    ),
    table(
        ObjectKind::StreamFeatureView,
        "stream_feature_views",
        VIEW_KEY,
        VIEW_MESSAGE,
    ),
    table(ObjectKind::LabelView, "label_views", VIEW_KEY, VIEW_MESSAGE),
    table(
        ObjectKind::FeatureService,
        "feature_services",
        "feature_service_name",
        "feature_service_proto",
    ),
    table(
        ObjectKind::SavedDataset,
        "saved_datasets",
        "saved_dataset_name",
        "saved_dataset_proto",
    ),
    table(
        ObjectKind::ValidationReference,
        "validation_references",
        "validation_reference_name",
        "validation_reference_proto",
    ),
    table(
        ObjectKind::Permission,
        "permissions",
        "permission_name",
        "permission_proto",
    ),
];

const VIEW_KEY: &str = "feature_view_name";
const VIEW_MESSAGE: &str = "feature_view_proto";

const fn table(kind: ObjectKind, name: &'static str, key: &'static str, message: &'static str) -> Table {
    Table {
        kind,
        name,
        key,
        message,
    }
}

/// The table of `kind`.
pub(super) fn table_of(kind: ObjectKind) -> Table {
    match TABLES.iter().find(|table| table.kind == kind) {
        Some(table) => *table,
        None => table(kind, "projects", "project_id", "project_proto"),
    }
}

/// Tables beside those of the kinds, which a deleted project leaves nothing in.
pub(super) const OTHER_TABLES: [&str; 3] =
    ["managed_infra", "feature_view_version_history", "feast_metadata"];

/// The one name `managed_infra` knows.
pub(super) const INFRA_NAME: &str = "infra_obj";

/// The metadata key that holds the time of the last change.
pub(super) const LAST_UPDATED: &str = "last_updated_timestamp";

/// What makes all tables that are missing.
pub(super) fn create(dialect: Dialect) -> Vec<String> {
    let blob = dialect.blob;
    let mut statements = Vec::new();
    let mut add = |name: &str, index: &str, columns: String| {
        statements.push(format!("CREATE TABLE IF NOT EXISTS {name} ({columns})"));
        statements.push(format!(
            "CREATE INDEX IF NOT EXISTS {index} ON {name} (project_id)"
        ));
    };
    for Table {
        kind,
        name,
        key,
        message,
    } in TABLES
    {
        let time = "last_updated_timestamp BIGINT NOT NULL";
        let index = format!("idx_{name}_project_id");
        let message = format!("{message} {blob} NOT NULL");
        if kind == ObjectKind::Project {
            let columns = format!(
                "project_id VARCHAR(255) NOT NULL, project_name VARCHAR(255) NOT NULL, {time}, {message}, \
                 PRIMARY KEY (project_id)"
            );
            add(name, &index, columns);
            continue;
        }
        let intervals = match kind {
            ObjectKind::FeatureView => format!("materialized_intervals {blob}, "),
            _ => String::new(),
        };
        let user_metadata = if kind.is_view() {
            format!(", user_metadata {blob}")
        } else {
            String::new()
        };
        let columns = format!(
            "{key} VARCHAR(255) NOT NULL, project_id VARCHAR(255) NOT NULL, {time}, {intervals}{message}\
             {user_metadata}, PRIMARY KEY ({key}, project_id)"
        );
        add(name, &index, columns);
    }
    add(
        "managed_infra",
        "idx_managed_infra_project_id",
        format!(
            "infra_name VARCHAR(255) NOT NULL, project_id VARCHAR(255) NOT NULL, \
             last_updated_timestamp BIGINT NOT NULL, infra_proto {blob} NOT NULL, PRIMARY KEY (infra_name, project_id)"
        ),
    );
    add(
        "feature_view_version_history",
        "idx_fv_version_history_project_id",
        format!(
            "feature_view_name VARCHAR(255) NOT NULL, project_id VARCHAR(255) NOT NULL, \
             version_number INTEGER NOT NULL, feature_view_type VARCHAR(50) NOT NULL, \
             feature_view_proto {blob} NOT NULL, created_timestamp BIGINT NOT NULL, description TEXT, \
             version_id VARCHAR(36) NOT NULL, PRIMARY KEY (feature_view_name, project_id, version_number)"
        ),
    );
    add(
        "feast_metadata",
        "idx_feast_metadata_project_id",
        "project_id VARCHAR(255) NOT NULL, metadata_key VARCHAR(50) NOT NULL, metadata_value TEXT NOT NULL, \
         last_updated_timestamp BIGINT NOT NULL, PRIMARY KEY (project_id, metadata_key)"
            .to_owned(),
    );
    statements
}

impl Table {
    /// Name and message of every object of a project.
    pub(super) fn select(self, dialect: Dialect) -> String {
        let Self {
            name, key, message, ..
        } = self;
        format!(
            "SELECT {key}, {message} FROM {name} WHERE project_id = ? ORDER BY {}",
            dialect.arrival
        )
    }

    /// Inserts or replaces one object; binds name, project, seconds, message.
    pub(super) fn upsert(self) -> String {
        let Self {
            kind,
            name,
            key,
            message,
        } = self;
        let (columns, conflict) = if kind == ObjectKind::Project {
            (
                format!("project_id, project_name, last_updated_timestamp, {message}"),
                "project_id".to_owned(),
            )
        } else {
            (
                format!("{key}, project_id, last_updated_timestamp, {message}"),
                format!("{key}, project_id"),
            )
        };
        format!(
            "INSERT INTO {name} ({columns}) VALUES (?, ?, ?, ?) ON CONFLICT ({conflict}) DO UPDATE SET \
             last_updated_timestamp = excluded.last_updated_timestamp, {message} = excluded.{message}"
        )
    }

    /// Removes one object; binds name and project.
    pub(super) fn delete(self) -> String {
        format!(
            "DELETE FROM {} WHERE {} = ? AND project_id = ?",
            self.name, self.key
        )
    }
}

pub(super) const SELECT_PROJECTS: &str = "SELECT project_id FROM projects UNION \
     SELECT project_id FROM feast_metadata WHERE metadata_key = 'project_uuid' ORDER BY project_id";

pub(super) const SELECT_INFRA: &str =
    "SELECT infra_proto FROM managed_infra WHERE infra_name = ? AND project_id = ?";

pub(super) const UPSERT_INFRA: &str = "INSERT INTO managed_infra \
     (infra_name, project_id, last_updated_timestamp, infra_proto) VALUES (?, ?, ?, ?) \
     ON CONFLICT (infra_name, project_id) DO UPDATE SET \
     last_updated_timestamp = excluded.last_updated_timestamp, infra_proto = excluded.infra_proto";

pub(super) const SELECT_VERSIONS: &str = "SELECT feature_view_name, version_number, feature_view_type, \
     feature_view_proto, created_timestamp, description, version_id FROM feature_view_version_history \
     WHERE project_id = ? ORDER BY feature_view_name, version_number";

pub(super) const UPSERT_VERSION: &str = "INSERT INTO feature_view_version_history \
     (feature_view_name, project_id, version_number, feature_view_type, feature_view_proto, created_timestamp, \
     description, version_id) VALUES (?, ?, ?, ?, ?, ?, ?, ?) \
     ON CONFLICT (feature_view_name, project_id, version_number) DO UPDATE SET \
     feature_view_type = excluded.feature_view_type, feature_view_proto = excluded.feature_view_proto, \
     created_timestamp = excluded.created_timestamp, description = excluded.description, \
     version_id = excluded.version_id";

pub(super) const DELETE_VERSIONS: &str =
    "DELETE FROM feature_view_version_history WHERE feature_view_name = ? AND project_id = ?";

pub(super) const SELECT_METADATA: &str =
    "SELECT metadata_key, metadata_value FROM feast_metadata WHERE project_id = ? ORDER BY metadata_key";

pub(super) const UPSERT_METADATA: &str = "INSERT INTO feast_metadata \
     (project_id, metadata_key, metadata_value, last_updated_timestamp) VALUES (?, ?, ?, ?) \
     ON CONFLICT (project_id, metadata_key) DO UPDATE SET \
     metadata_value = excluded.metadata_value, last_updated_timestamp = excluded.last_updated_timestamp";
