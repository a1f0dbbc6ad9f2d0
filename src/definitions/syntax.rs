//! What definition files say, before names are looked up: one struct per kind of object.

use std::{collections::BTreeMap, time::Duration};

use super::{
    reader::{File, Mapping, Name, Place},
    types::{self, FieldType},
};
use crate::{
    config::{
        problem::Problem,
        schedule_problem,
        yaml::{Node, Value},
    },
    model::ObjectKind,
    offline::postgres,
};

/// Everything the files of a repository define.
#[derive(Debug, Default)]
pub(super) struct Document {
    pub(super) project: Option<ProjectDefinition>,
    pub(super) entities: Vec<EntityDefinition>,
    pub(super) data_sources: Vec<SourceDefinition>,
    pub(super) feature_views: Vec<FeatureViewDefinition>,
    pub(super) on_demand_feature_views: Vec<OnDemandDefinition>,
    pub(super) feature_services: Vec<ServiceDefinition>,
    pub(super) permissions: Vec<PermissionDefinition>,
    pub(super) saved_datasets: Vec<DatasetDefinition>,
    pub(super) protos: Vec<ProtoDefinition>,
}

/// What nearly every object has.
#[derive(Debug, Default)]
pub(super) struct Common {
    pub(super) description: String,
    pub(super) tags: BTreeMap<String, String>,
    pub(super) owner: String,
}

#[derive(Debug)]
pub(super) struct ProjectDefinition {
    pub(super) name: Option<Name>,
    pub(super) common: Common,
    pub(super) place: Place,
}

#[derive(Debug)]
pub(super) struct EntityDefinition {
    pub(super) name: Name,
    pub(super) join_key: Option<String>,
    pub(super) value_type: Option<FieldType>,
    pub(super) common: Common,
}

#[derive(Debug)]
pub(super) struct SourceDefinition {
    pub(super) name: Name,
    pub(super) kind: SourceKind,
    pub(super) timestamp_field: String,
    pub(super) created_timestamp_column: String,
    pub(super) date_partition_column: String,
    pub(super) field_mapping: BTreeMap<String, String>,
    pub(super) common: Common,
}

#[derive(Debug)]
pub(super) enum SourceKind {
    File {
        path: String,
        format: Option<&'static str>,
        s3_endpoint_override: String,
    },
    /// A table or a query of PostgreSQL.
    Postgres(postgres::Source),
    Push {
        batch_source: Name,
    },
    Request {
        schema: Vec<FieldDefinition>,
    },
}

#[derive(Debug)]
pub(super) struct FieldDefinition {
    pub(super) name: Name,
    pub(super) field_type: FieldType,
    pub(super) description: String,
    pub(super) tags: BTreeMap<String, String>,
    pub(super) vector_index: bool,
    pub(super) vector_length: i32,
    pub(super) vector_search_metric: String,
}

#[derive(Debug)]
pub(super) struct FeatureViewDefinition {
    pub(super) name: Name,
    pub(super) entities: Vec<Name>,
    pub(super) source: Name,
    pub(super) ttl: Duration,
    /// `None` is inferred from the source.
    pub(super) schema: Option<Vec<FieldDefinition>>,
    pub(super) online: bool,
    pub(super) offline: bool,
    pub(super) enabled: bool,
    pub(super) version: String,
    pub(super) org: String,
    pub(super) schedule: Option<String>,
    pub(super) common: Common,
}

#[derive(Debug)]
pub(super) struct OnDemandDefinition {
    pub(super) name: Name,
    pub(super) sources: Vec<ProjectionDefinition>,
    pub(super) schema: Vec<FieldDefinition>,
    pub(super) expressions: BTreeMap<String, String>,
    pub(super) expressions_place: Place,
    pub(super) entities: Vec<Name>,
    pub(super) write_to_online_store: bool,
    pub(super) enabled: bool,
    pub(super) version: String,
    pub(super) org: String,
    pub(super) common: Common,
}

/// A view, or a part of one.
#[derive(Debug)]
pub(super) struct ProjectionDefinition {
    pub(super) view: Name,
    /// `None` is all of them.
    pub(super) features: Option<Vec<Name>>,
    pub(super) alias: String,
    pub(super) join_key_map: BTreeMap<String, String>,
    pub(super) version: Option<i32>,
}

#[derive(Debug)]
pub(super) struct ServiceDefinition {
    pub(super) name: Name,
    pub(super) features: Vec<ProjectionDefinition>,
    pub(super) precompute_online: bool,
    pub(super) logging: Option<LoggingDefinition>,
    pub(super) common: Common,
}

/// Which of the requests for a service are logged, and into which files.
#[derive(Debug)]
pub(super) struct LoggingDefinition {
    pub(super) path: String,
    pub(super) s3_endpoint_override: String,
    pub(super) partition_by: Vec<String>,
    pub(super) sample_rate: f32,
}

#[derive(Debug)]
pub(super) struct PermissionDefinition {
    pub(super) name: Name,
    pub(super) types: Vec<&'static str>,
    pub(super) name_patterns: Vec<String>,
    pub(super) required_tags: BTreeMap<String, String>,
    pub(super) actions: Vec<&'static str>,
    pub(super) policy: PolicyDefinition,
    pub(super) tags: BTreeMap<String, String>,
}

#[derive(Debug, Default)]
pub(super) struct PolicyDefinition {
    pub(super) roles: Vec<String>,
    pub(super) groups: Vec<String>,
    pub(super) namespaces: Vec<String>,
}

#[derive(Debug)]
pub(super) struct DatasetDefinition {
    pub(super) name: Name,
    pub(super) features: Vec<String>,
    pub(super) join_keys: Vec<String>,
    pub(super) full_feature_names: bool,
    pub(super) storage: StorageKind,
    pub(super) feature_service: String,
    pub(super) namespace: String,
    pub(super) collection: String,
    pub(super) description: String,
    pub(super) tags: BTreeMap<String, String>,
}

/// Where a dataset lies.
#[derive(Debug)]
pub(super) enum StorageKind {
    File {
        path: String,
        s3_endpoint_override: String,
    },
    /// A table of PostgreSQL.
    Table(String),
}

/// An object that the other sections cannot express, as protobuf's JSON.
#[derive(Debug)]
pub(super) struct ProtoDefinition {
    pub(super) kind: ObjectKind,
    pub(super) json: serde_json::Value,
    pub(super) place: Place,
}

/// Types that permissions are about, by Feast's class names.
pub(super) const PERMISSION_TYPES: [(&str, i32); 12] = [
    ("FeatureView", 0),
    ("OnDemandFeatureView", 1),
    ("BatchFeatureView", 2),
    ("StreamFeatureView", 3),
    ("Entity", 4),
    ("FeatureService", 5),
    ("DataSource", 6),
    ("ValidationReference", 7),
    ("SavedDataset", 8),
    ("Permission", 9),
    ("Project", 10),
    ("LabelView", 11),
];

/// What permissions allow, in the order of Feast's numbers.
pub(super) const ACTIONS: [&str; 8] = [
    "CREATE",
    "DESCRIBE",
    "UPDATE",
    "DELETE",
    "READ_ONLINE",
    "READ_OFFLINE",
    "WRITE_ONLINE",
    "WRITE_OFFLINE",
];

/// Names of object kinds in `proto:` entries.
pub(super) fn kind_name(kind: ObjectKind) -> &'static str {
    kind.message_name().trim_start_matches("feast.core.")
}

impl Document {
    /// Adds what one file says.
    pub(super) fn read(&mut self, file: &File, root: &Node) {
        if root.value == Value::Null {
            return;
        }
        let Some(mut sections) = Mapping::new(file, root, "definition file") else {
            return;
        };
        if let Some(node) = sections.node("project") {
            self.read_project(file, node);
        }
        let read = |items: &[Node], one: &mut dyn FnMut(&Node)| items.iter().for_each(one);
        read(sections.items("entities"), &mut |node| {
            self.entities.extend(entity(file, node))
        });
        read(sections.items("data_sources"), &mut |node| {
            self.data_sources.extend(data_source(file, node))
        });
        read(sections.items("feature_views"), &mut |node| {
            self.feature_views.extend(feature_view(file, node))
        });
        read(sections.items("on_demand_feature_views"), &mut |node| {
            self.on_demand_feature_views.extend(on_demand(file, node));
        });
        read(sections.items("feature_services"), &mut |node| {
            self.feature_services.extend(service(file, node))
        });
        read(sections.items("permissions"), &mut |node| {
            self.permissions.extend(permission(file, node))
        });
        read(sections.items("saved_datasets"), &mut |node| {
            self.saved_datasets.extend(dataset(file, node))
        });
        read(sections.items("proto"), &mut |node| {
            self.protos.extend(proto(file, node))
        });
        sections.finish();
    }

    fn read_project(&mut self, file: &File, node: &Node) {
        let Some(mut mapping) = Mapping::new(file, node, "project") else {
            return;
        };
        let place = mapping.place();
        if let Some(first) = &self.project {
            let hint = format!("it is defined at {}:{}", first.place.file, first.place.line);
            file.report(
                Problem::error("the project is defined twice")
                    .at(node.line)
                    .hint(hint),
            );
        }
        self.project = Some(ProjectDefinition {
            name: mapping.name("name"),
            common: common(&mut mapping),
            place,
        });
        mapping.finish();
    }
}

fn common(mapping: &mut Mapping<'_>) -> Common {
    Common {
        description: mapping.text("description").unwrap_or_default(),
        tags: mapping.map("tags"),
        owner: mapping.text("owner").unwrap_or_default(),
    }
}

fn field_type(mapping: &mut Mapping<'_>, key: &'static str) -> Option<FieldType> {
    let name = mapping.name(key)?;
    let parsed = FieldType::parse(&name.text);
    if parsed.is_none() {
        let problem = Problem::error(format!("there is no type `{}`", name.text))
            .at(name.place.line)
            .key(key);
        mapping.file.report(problem.suggest(&name.text, types::known()));
    }
    parsed
}

fn entity(file: &File, node: &Node) -> Option<EntityDefinition> {
    let mut mapping = Mapping::new(file, node, "entity")?;
    let name = mapping.required("name");
    let join_key = mapping.text("join_key");
    let value_type = field_type(&mut mapping, "value_type");
    let common = common(&mut mapping);
    mapping.finish();
    Some(EntityDefinition {
        name: name?,
        join_key,
        value_type,
        common,
    })
}

fn data_source(file: &File, node: &Node) -> Option<SourceDefinition> {
    const KINDS: [&str; 4] = ["file", "postgres", "push", "request"];
    let mut mapping = Mapping::new(file, node, "data source")?;
    let name = mapping.required("name");
    let kind_missing = mapping.node("type").is_none();
    let kind = match mapping.choice("type", &KINDS) {
        None if kind_missing => {
            file.report(
                Problem::error("data source without `type`")
                    .at(node.line)
                    .hint("file, postgres, push or request"),
            );
            None
        }
        // The keys depend on the type: without it they cannot be judged.
        None => return None,
        Some("file") => mapping.required("path").map(|path| SourceKind::File {
            path: path.text,
            format: mapping.choice("format", &["parquet", "delta"]),
            s3_endpoint_override: mapping.text("s3_endpoint_override").unwrap_or_default(),
        }),
        Some("postgres") => table_or_query(&mut mapping, node).map(SourceKind::Postgres),
        Some("push") => mapping
            .required("batch_source")
            .map(|batch_source| SourceKind::Push { batch_source }),
        Some(_) => Some(SourceKind::Request {
            schema: schema(&mut mapping).unwrap_or_default(),
        }),
    };
    let (mut timestamp_field, mut created, mut partition) = (String::new(), String::new(), String::new());
    let mut field_mapping = BTreeMap::new();
    if !matches!(kind, Some(SourceKind::Push { .. } | SourceKind::Request { .. })) {
        timestamp_field = mapping.text("timestamp_field").unwrap_or_default();
        created = mapping.text("created_timestamp_column").unwrap_or_default();
        partition = mapping.text("date_partition_column").unwrap_or_default();
        field_mapping = mapping.map("field_mapping");
        if !timestamp_field.is_empty() && timestamp_field == created {
            let text = "`timestamp_field` and `created_timestamp_column` are the same column";
            file.report(Problem::error(text).at(node.line));
        }
    }
    let common = common(&mut mapping);
    mapping.finish();
    Some(SourceDefinition {
        name: name?,
        kind: kind?,
        timestamp_field,
        created_timestamp_column: created,
        date_partition_column: partition,
        field_mapping,
        common,
    })
}

/// The name of a table as it is written in SQL, or a query.
fn table_or_query(mapping: &mut Mapping<'_>, node: &Node) -> Option<postgres::Source> {
    let given = |text: Option<String>| text.filter(|text| !text.trim().is_empty());
    match (given(mapping.text("table")), given(mapping.text("query"))) {
        (Some(table), None) => Some(postgres::Source::Table(table)),
        (None, Some(query)) => Some(postgres::Source::Query(query)),
        _ => {
            let text = "a source in PostgreSQL is a `table` or a `query`, one of them";
            mapping.file.report(Problem::error(text).at(node.line));
            None
        }
    }
}

fn schema(mapping: &mut Mapping<'_>) -> Option<Vec<FieldDefinition>> {
    let node = mapping.node("schema")?;
    let file = mapping.file;
    let fields: Vec<FieldDefinition> = file
        .items(node, "schema")
        .iter()
        .filter_map(|item| field(file, item))
        .collect();
    for (index, later) in fields.iter().enumerate() {
        if fields
            .iter()
            .take(index)
            .any(|field| field.name.text == later.name.text)
        {
            let text = format!("field `{}` is there twice", later.name.text);
            file.report(Problem::error(text).at(later.name.place.line));
        }
    }
    Some(fields)
}

fn field(file: &File, node: &Node) -> Option<FieldDefinition> {
    let mut mapping = Mapping::new(file, node, "field")?;
    let name = mapping.required("name");
    let typed = mapping.required("type").is_some();
    let field_type = field_type(&mut mapping, "type");
    let field = FieldDefinition {
        name: name.clone().unwrap_or_default(),
        field_type: field_type
            .clone()
            .unwrap_or(FieldType::Plain(crate::model::ValueType::Unknown)),
        description: mapping.text("description").unwrap_or_default(),
        tags: mapping.map("tags"),
        vector_index: mapping.bool("vector_index").unwrap_or_default(),
        vector_length: mapping
            .int("vector_length")
            .and_then(|length| i32::try_from(length).ok())
            .unwrap_or_default(),
        vector_search_metric: mapping.text("vector_search_metric").unwrap_or_default(),
    };
    mapping.finish();
    (name.is_some() && typed && field_type.is_some()).then_some(field)
}

fn feature_view(file: &File, node: &Node) -> Option<FeatureViewDefinition> {
    let mut mapping = Mapping::new(file, node, "feature view")?;
    let name = view_name(&mut mapping);
    let source = mapping.required("source");
    let entities = mapping.names("entities");
    let ttl = mapping.duration("ttl").unwrap_or_default();
    let schema = schema(&mut mapping);
    let schedule = mapping.name("schedule");
    if let Some(text) = schedule
        .as_ref()
        .and_then(|schedule| schedule_problem(&schedule.text))
    {
        let line = schedule
            .as_ref()
            .map_or(node.line, |schedule| schedule.place.line);
        file.report(Problem::error(text).at(line).key("schedule"));
    }
    let online = mapping.bool("online").unwrap_or(true);
    let offline = mapping.bool("offline").unwrap_or_default();
    let enabled = mapping.bool("enabled").unwrap_or(true);
    let version = mapping.text("version").unwrap_or_else(|| "latest".to_owned());
    let org = mapping.text("org").unwrap_or_default();
    let common = common(&mut mapping);
    mapping.finish();
    Some(FeatureViewDefinition {
        name: name?,
        entities,
        source: source?,
        ttl,
        schema,
        online,
        offline,
        enabled,
        version,
        org,
        schedule: schedule.map(|schedule| schedule.text),
        common,
    })
}

/// A view's name must leave room for `view@v1:feature` (`feast/base_feature_view.py:ensure_valid`).
fn view_name(mapping: &mut Mapping<'_>) -> Option<Name> {
    let name = mapping.required("name")?;
    if name.text.contains(['@', ':']) {
        let text = format!("feature view name `{}` must not contain `@` or `:`", name.text);
        mapping.file.report(Problem::error(text).at(name.place.line));
        return None;
    }
    Some(name)
}

fn on_demand(file: &File, node: &Node) -> Option<OnDemandDefinition> {
    let mut mapping = Mapping::new(file, node, "on demand feature view")?;
    let name = view_name(&mut mapping);
    let sources = mapping
        .items("sources")
        .iter()
        .filter_map(|item| projection(file, item))
        .collect();
    let schema = schema(&mut mapping).unwrap_or_default();
    let place = mapping
        .node("expressions")
        .map_or_else(|| mapping.place(), |node| file.place(node.line));
    let definition = OnDemandDefinition {
        name: name.clone().unwrap_or_default(),
        sources,
        schema,
        expressions: mapping.map("expressions"),
        expressions_place: place,
        entities: mapping.names("entities"),
        write_to_online_store: mapping.bool("write_to_online_store").unwrap_or_default(),
        enabled: mapping.bool("enabled").unwrap_or(true),
        version: mapping.text("version").unwrap_or_else(|| "latest".to_owned()),
        org: mapping.text("org").unwrap_or_default(),
        common: common(&mut mapping),
    };
    mapping.finish();
    name.map(|_| definition)
}

fn projection(file: &File, node: &Node) -> Option<ProjectionDefinition> {
    if let Some(text) = node.scalar() {
        return Some(ProjectionDefinition {
            view: Name {
                text,
                place: file.place(node.line),
            },
            features: None,
            alias: String::new(),
            join_key_map: BTreeMap::new(),
            version: None,
        });
    }
    let mut mapping = Mapping::new(file, node, "projection")?;
    let view = mapping.required("view");
    let features = mapping
        .node("features")
        .is_some()
        .then(|| mapping.names("features"));
    let alias = mapping.text("alias").unwrap_or_default();
    let join_key_map = mapping.map("join_key_map");
    let version = mapping
        .int("version")
        .and_then(|version| i32::try_from(version).ok());
    mapping.finish();
    Some(ProjectionDefinition {
        view: view?,
        features,
        alias,
        join_key_map,
        version,
    })
}

fn service(file: &File, node: &Node) -> Option<ServiceDefinition> {
    let mut mapping = Mapping::new(file, node, "feature service")?;
    let name = mapping.required("name");
    let features = mapping
        .items("features")
        .iter()
        .filter_map(|item| projection(file, item))
        .collect();
    let precompute_online = mapping.bool("precompute_online").unwrap_or_default();
    let logging = mapping.node("logging").and_then(|node| logging(file, node));
    let common = common(&mut mapping);
    mapping.finish();
    Some(ServiceDefinition {
        name: name?,
        features,
        precompute_online,
        logging,
        common,
    })
}

fn logging(file: &File, node: &Node) -> Option<LoggingDefinition> {
    let mut mapping = Mapping::new(file, node, "logging")?;
    let path = mapping.required("path");
    let s3_endpoint_override = mapping.text("s3_endpoint_override").unwrap_or_default();
    let partition_by = mapping.texts("partition_by");
    let sample_rate = mapping.share("sample_rate").unwrap_or(1.0);
    mapping.finish();
    Some(LoggingDefinition {
        path: path?.text,
        s3_endpoint_override,
        partition_by,
        sample_rate,
    })
}

fn permission(file: &File, node: &Node) -> Option<PermissionDefinition> {
    let mut mapping = Mapping::new(file, node, "permission")?;
    let name = mapping.required("name");
    let types = mapping.choices("types", &PERMISSION_TYPES.map(|(name, _)| name));
    let actions = mapping.choices("actions", &ACTIONS);
    if actions.is_empty() {
        file.report(
            Problem::error("permission without `actions`")
                .at(node.line)
                .hint("for example READ_ONLINE"),
        );
    }
    let policy = mapping.node("policy").and_then(|node| policy(file, node));
    if policy.is_none() {
        let hint = "for example `policy: {roles: [reader]}`";
        file.report(
            Problem::error("permission without `policy`")
                .at(node.line)
                .hint(hint),
        );
    }
    let definition = PermissionDefinition {
        name: name.clone().unwrap_or_default(),
        types,
        name_patterns: mapping.texts("name_patterns"),
        required_tags: mapping.map("required_tags"),
        actions,
        policy: policy.unwrap_or_default(),
        tags: mapping.map("tags"),
    };
    mapping.finish();
    name.map(|_| definition)
}

fn policy(file: &File, node: &Node) -> Option<PolicyDefinition> {
    let mut mapping = Mapping::new(file, node, "policy")?;
    let policy = PolicyDefinition {
        roles: mapping.texts("roles"),
        groups: mapping.texts("groups"),
        namespaces: mapping.texts("namespaces"),
    };
    mapping.finish();
    let of_roles = !policy.roles.is_empty();
    let grouped = !policy.groups.is_empty() || !policy.namespaces.is_empty();
    if of_roles && grouped {
        let text = "a policy is about roles, or about groups and namespaces";
        file.report(Problem::error(text).at(node.line));
    }
    (grouped || of_roles).then_some(policy)
}

fn dataset(file: &File, node: &Node) -> Option<DatasetDefinition> {
    let mut mapping = Mapping::new(file, node, "saved dataset")?;
    let name = mapping.required("name");
    let storage = mapping.node("storage");
    if storage.is_none() {
        let hint = "for example `storage: {type: file, path: data/dataset.parquet}`";
        file.report(
            Problem::error("saved dataset without `storage`")
                .at(node.line)
                .hint(hint),
        );
    }
    let storage = storage.and_then(|node| storage_kind(file, node));
    let definition = DatasetDefinition {
        name: name.clone().unwrap_or_default(),
        features: mapping.texts("features"),
        join_keys: mapping.texts("join_keys"),
        full_feature_names: mapping.bool("full_feature_names").unwrap_or_default(),
        storage: storage.unwrap_or_else(|| StorageKind::Table(String::new())),
        feature_service: mapping.text("feature_service").unwrap_or_default(),
        namespace: mapping.text("namespace").unwrap_or_default(),
        collection: mapping.text("collection").unwrap_or_default(),
        description: mapping.text("description").unwrap_or_default(),
        tags: mapping.map("tags"),
    };
    mapping.finish();
    name.map(|_| definition)
}

fn storage_kind(file: &File, node: &Node) -> Option<StorageKind> {
    let mut mapping = Mapping::new(file, node, "storage")?;
    let kind = match mapping.choice("type", &["file", "postgres"]) {
        Some("postgres") => mapping
            .required("table")
            .map(|table| StorageKind::Table(table.text)),
        _ => mapping.required("path").map(|path| StorageKind::File {
            path: path.text,
            s3_endpoint_override: mapping.text("s3_endpoint_override").unwrap_or_default(),
        }),
    };
    mapping.finish();
    kind
}

fn proto(file: &File, node: &Node) -> Option<ProtoDefinition> {
    let mut mapping = Mapping::new(file, node, "proto entry")?;
    let kinds = ObjectKind::ALL.map(kind_name);
    let missing = mapping.required("kind").is_none();
    let kind = if missing {
        None
    } else {
        mapping.choice("kind", &kinds)
    };
    let json = mapping.node("json").map(Node::to_json);
    if json.is_none() {
        file.report(Problem::error("proto entry without `json`").at(node.line));
    }
    let place = mapping.place();
    mapping.finish();
    let kind = ObjectKind::ALL
        .into_iter()
        .find(|known| kind == Some(kind_name(*known)))?;
    Some(ProtoDefinition {
        kind,
        json: json?,
        place,
    })
}
