//! The keys of `feature_store.yaml`: Feast's (`feast/repo_config.py` and the store classes) and thali's.
//! Tables only; `super::check` walks them.

use super::{offline, serving};
use crate::{
    offline::{hybrid, postgres, remote},
    online::store::kind::KINDS,
};

/// What a key holds.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    /// Anything; kept as it is.
    Any,
    Text,
    /// Text that is never printed.
    Secret,
    Bool,
    Int,
    Float,
    /// A list of text or numbers.
    List,
    /// A mapping with free keys.
    Map,
    /// Bytes, `1GiB`.
    Size,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// A mapping with these keys.
    Section(&'static Schema),
    /// Stores of a kind, each with a type and its keys.
    Stores(&'static Store),
}

/// What happens when a key is set.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Effect {
    /// It counts.
    Used,
    /// Feast has it; nothing in thali depends on it.
    Accepted,
    /// Feast has it and a user would miss it: a warning with this text when it is switched on.
    Missing(&'static str),
    /// Of its values thali does this one; any other is a warning with the text.
    Only(&'static str, &'static str),
}

/// One key.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Key {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    /// As it would be written in the file.
    pub(crate) default: Option<&'static str>,
    pub(crate) effect: Effect,
}

/// What a key that is not in the table is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unknown {
    /// Feast ignores it: a warning.
    Warned,
    /// Feast refuses it: an error.
    Refused,
}

/// The keys of one mapping.
#[derive(Debug)]
pub(crate) struct Schema {
    pub(crate) keys: &'static [Key],
    pub(crate) unknown: Unknown,
}

impl Schema {
    pub(crate) fn key(&self, name: &str) -> Option<&'static Key> {
        self.keys.iter().find(|key| key.name == name)
    }
}

pub(crate) const fn used(name: &'static str, kind: Kind, default: Option<&'static str>) -> Key {
    Key {
        name,
        kind,
        default,
        effect: Effect::Used,
    }
}

pub(crate) const fn accepted(name: &'static str, kind: Kind) -> Key {
    Key {
        name,
        kind,
        default: None,
        effect: Effect::Accepted,
    }
}

pub(crate) const fn missing(name: &'static str, kind: Kind, what: &'static str) -> Key {
    Key {
        name,
        kind,
        default: None,
        effect: Effect::Missing(what),
    }
}

pub(crate) const fn only(name: &'static str, kind: Kind, value: &'static str, what: &'static str) -> Key {
    Key {
        name,
        kind,
        default: None,
        effect: Effect::Only(value, what),
    }
}

/// The keys of `first`, then those of `second`.
pub(crate) const fn joined<const N: usize>(first: &[Key], second: &[Key]) -> [Key; N] {
    assert!(first.len() + second.len() == N);
    let mut keys = [accepted("", Kind::Any); N];
    let mut place = 0;
    while place < N {
        keys[place] = if place < first.len() {
            first[place]
        } else {
            second[place - first.len()]
        };
        place += 1;
    }
    keys
}

/// Keys of the whole file. Stores and other sections that depend on a `type` are read by hand.
pub(crate) static TOP: Schema = Schema {
    unknown: Unknown::Warned,
    keys: &[
        used("project", Kind::Text, None),
        used("project_description", Kind::Text, Some("")),
        used("provider", Kind::Text, Some("local")),
        used("registry", Kind::Any, None),
        used("online_store", Kind::Any, None),
        used("offline_store", Kind::Any, None),
        used("batch_engine", Kind::Any, None),
        used("auth", Kind::Any, None),
        used("feature_server", Kind::Any, None),
        used("entity_key_serialization_version", Kind::Int, Some("3")),
        accepted("coerce_tz_aware", Kind::Bool),
        accepted("flags", Kind::Any),
        accepted("repo_path", Kind::Text),
        used("materialization", Kind::Section(&MATERIALIZATION), None),
        missing("embedding_model", Kind::Map, "texts are not embedded by thali"),
        used("openlineage", Kind::Any, None),
        used("mlflow", Kind::Any, None),
        missing(
            "data_quality_monitoring",
            Kind::Map,
            "data quality is not monitored by thali",
        ),
        used("thali", Kind::Section(&THALI), None),
    ],
};

static MATERIALIZATION: Schema = Schema {
    unknown: Unknown::Refused,
    keys: &[
        accepted("pull_latest_features", Kind::Bool),
        used("online_write_batch_size", Kind::Int, None),
    ],
};

/// The `thali:` section; every leaf is also an environment variable, `THALI_` and its path.
pub(crate) static THALI: Schema = Schema {
    unknown: Unknown::Refused,
    keys: &[
        used("memory_limit", Kind::Size, Some("1GiB")),
        used(
            "ttl_mode",
            Kind::Choice(&["python", "status", "null"]),
            Some("python"),
        ),
        used(
            "unknown_entity",
            Kind::Choice(&["store", "present", "not_found"]),
            Some("store"),
        ),
        used("online", Kind::Section(&serving::LIMITS), None),
        used("offline", Kind::Section(&offline::SCHEMA), None),
        used("schedules", Kind::Map, None),
        used("materialize_lookback", Kind::Text, Some("0s")),
        used("python", Kind::Section(&PYTHON), None),
        used("registry_poll_seconds", Kind::Float, Some("1")),
        used("registry_token", Kind::Text, None),
        used("online_token", Kind::Text, None),
        used("offline_token", Kind::Text, None),
        used("push_journal", Kind::Text, Some("data/push_journal")),
        used("push_journal_limit", Kind::Size, Some("256MiB")),
        used("registry_history", Kind::Section(&REGISTRY_HISTORY), None),
        used("shutdown_grace_seconds", Kind::Float, Some("30")),
        used("shutdown_delay_seconds", Kind::Float, Some("0")),
        used("otlp_endpoint", Kind::Text, None),
        used("otlp_sample_ratio", Kind::Float, Some("1")),
    ],
};

static PYTHON: Schema = Schema {
    unknown: Unknown::Refused,
    keys: &[
        used("enabled", Kind::Bool, Some("true")),
        used("command", Kind::Text, Some("python3")),
        used("workers", Kind::Int, Some("2")),
        used("time_limit_seconds", Kind::Float, Some("60")),
        used("memory_limit", Kind::Size, Some("2GiB")),
    ],
};

static REGISTRY_HISTORY: Schema = Schema {
    unknown: Unknown::Refused,
    keys: &[used("keep", Kind::Int, Some("1000"))],
};

/// The `registry:` section of all types.
pub(crate) static REGISTRY: Schema = Schema {
    unknown: Unknown::Warned,
    keys: &[
        used("registry_type", Kind::Text, Some("file")),
        used("registry_store_type", Kind::Text, None),
        used("path", Kind::Text, None),
        used("cache_ttl_seconds", Kind::Float, Some("600")),
        used("cache_mode", Kind::Choice(&["sync", "thread"]), Some("sync")),
        used("s3_additional_kwargs", Kind::Map, None),
        used("purge_feast_metadata", Kind::Bool, None),
        used("enable_online_feature_view_versioning", Kind::Bool, Some("false")),
        accepted("serve_features_while_materializing", Kind::Bool),
        missing("mcp", Kind::Map, "the registry is not served over MCP by thali"),
        used("read_path", Kind::Text, None),
        accepted("sqlalchemy_config_kwargs", Kind::Section(&SQLALCHEMY)),
        accepted("thread_pool_executor_worker_count", Kind::Int),
        used("schema_mode", Kind::Choice(&["auto", "verify", "skip"]), None),
        used("cert", Kind::Text, None),
        used("is_tls", Kind::Bool, None),
        used("client_cert", Kind::Text, None),
        used("client_key", Kind::Text, None),
        used("authority", Kind::Text, None),
    ],
};

/// What `create_engine` of `SQLAlchemy` is told.
static SQLALCHEMY: Schema = Schema {
    unknown: Unknown::Warned,
    keys: &[
        used("pool_size", Kind::Int, None),
        used("max_overflow", Kind::Int, None),
        used("pool_timeout", Kind::Float, None),
        used("pool_recycle", Kind::Int, None),
        used("pool_pre_ping", Kind::Bool, None),
        accepted("echo", Kind::Any),
        used("connect_args", Kind::Map, None),
        missing(
            "isolation_level",
            Kind::Text,
            "thali chooses the isolation level itself",
        ),
        accepted("echo_pool", Kind::Any),
        accepted("future", Kind::Bool),
        accepted("pool_use_lifo", Kind::Bool),
        accepted("pool_reset_on_return", Kind::Any),
        accepted("logging_name", Kind::Text),
        accepted("pool_logging_name", Kind::Text),
    ],
};

pub(crate) static DASK: Schema = Schema {
    unknown: Unknown::Refused,
    keys: &[used("type", Kind::Text, Some("dask"))],
};

pub(crate) static DUCKDB: Schema = Schema {
    unknown: Unknown::Refused,
    keys: &[
        used("type", Kind::Text, Some("duckdb")),
        accepted("staging_location", Kind::Text),
        accepted("staging_location_endpoint_override", Kind::Text),
    ],
};

pub(crate) static LOCAL_ENGINE: Schema = Schema {
    unknown: Unknown::Refused,
    keys: &[
        used("type", Kind::Text, Some("local")),
        accepted("backend", Kind::Text),
    ],
};

/// thali's own: Feast has no such engine.
pub(crate) static BALLISTA_ENGINE: Schema = Schema {
    unknown: Unknown::Refused,
    keys: &[
        used("type", Kind::Text, Some("ballista")),
        used("scheduler", Kind::Text, None),
        used("tasks", Kind::Int, Some("8")),
    ],
};

pub(crate) static NO_AUTH: Schema = Schema {
    unknown: Unknown::Refused,
    keys: &[used("type", Kind::Text, Some("no_auth"))],
};

pub(crate) static FEATURE_SERVER: Schema = Schema {
    unknown: Unknown::Refused,
    keys: &[
        accepted("type", Kind::Choice(&["local", "mcp"])),
        accepted("enabled", Kind::Bool),
        accepted("metrics", Kind::Section(&serving::METRICS)),
        accepted("feature_logging", Kind::Section(&serving::FEATURE_LOGGING)),
        accepted("audit_logging", Kind::Section(&serving::AUDIT)),
        used("offline_push_batching_enabled", Kind::Bool, None),
        used("offline_push_batching_batch_size", Kind::Int, None),
        used("offline_push_batching_batch_interval_seconds", Kind::Int, None),
        used("transformation_service_endpoint", Kind::Text, None),
        missing(
            "mcp_enabled",
            Kind::Bool,
            "features are not served over MCP by thali",
        ),
        accepted("mcp_server_name", Kind::Text),
        accepted("mcp_server_version", Kind::Text),
        accepted("mcp_transport", Kind::Choice(&["sse", "http"])),
    ],
};

pub(crate) static OPENLINEAGE: Schema = Schema {
    unknown: Unknown::Refused,
    keys: &[
        missing(
            "enabled",
            Kind::Bool,
            "OpenLineage events are not emitted by thali",
        ),
        accepted("transport_type", Kind::Text),
        accepted("transport_url", Kind::Text),
        accepted("transport_endpoint", Kind::Text),
        accepted("api_key", Kind::Secret),
        accepted("namespace", Kind::Text),
        accepted("producer", Kind::Text),
        accepted("emit_on_apply", Kind::Bool),
        accepted("emit_on_materialize", Kind::Bool),
        accepted("consumer", Kind::Map),
    ],
};

pub(crate) static MLFLOW: Schema = Schema {
    unknown: Unknown::Refused,
    keys: &[
        missing("enabled", Kind::Bool, "runs are not logged to MLflow by thali"),
        accepted("tracking_uri", Kind::Text),
        accepted("ui_url", Kind::Text),
        accepted("auto_log", Kind::Bool),
        accepted("auto_log_entity_df", Kind::Bool),
        accepted("entity_df_max_rows", Kind::Int),
        accepted("log_operations", Kind::Bool),
        accepted("ops_experiment_suffix", Kind::Text),
        accepted("dataset_sync", Kind::Map),
        accepted("ca_bundle", Kind::Text),
        accepted("supported_artifact_formats", Kind::List),
        accepted("request_timeout", Kind::Float),
        accepted("max_retries", Kind::Int),
        accepted("retry_backoff_factor", Kind::Float),
    ],
};

/// A kind of store: which section it is, what thali has, and what Feast has besides.
#[derive(Debug)]
pub(crate) struct Store {
    pub(crate) section: &'static str,
    /// The section's meaning in words.
    pub(crate) label: &'static str,
    pub(crate) default: &'static str,
    /// Types with their keys.
    pub(crate) supported: fn() -> Vec<(&'static str, &'static Schema)>,
    pub(crate) other: &'static [&'static str],
    /// Whether thali works without it: what it does instead is then said in a warning.
    pub(crate) replaced_by: Option<&'static str>,
}

pub(crate) static ONLINE: Store = Store {
    section: "online_store",
    label: "online store",
    default: "sqlite",
    supported: || KINDS.iter().map(|kind| (kind.name, kind.schema)).collect(),
    other: &[
        "aerospike",
        "datastore",
        "snowflake.online",
        "bigtable",
        "hbase",
        "cassandra",
        "scylladb",
        "hazelcast",
        "elasticsearch",
        "singlestore",
        "qdrant",
        "couchbase.online",
        "milvus",
        "mongodb",
        "chronon",
    ],
    replaced_by: None,
};

pub(crate) static OFFLINE: Store = Store {
    section: "offline_store",
    label: "offline store",
    default: "dask",
    supported: || {
        vec![
            ("dask", &DASK),
            ("file", &DASK),
            ("duckdb", &DUCKDB),
            ("postgres", &postgres::SCHEMA),
            ("hybrid", &hybrid::SCHEMA),
            ("remote", &remote::SCHEMA),
        ]
    },
    other: &[
        "bigquery",
        "redshift",
        "snowflake.offline",
        "spark",
        "trino",
        "athena",
        "mssql",
        "couchbase.offline",
        "clickhouse",
        "ray",
        "oracle",
        "chronon",
    ],
    replaced_by: None,
};

pub(crate) static ENGINE: Store = Store {
    section: "batch_engine",
    label: "batch engine",
    default: "local",
    supported: || vec![("local", &LOCAL_ENGINE), ("ballista", &BALLISTA_ENGINE)],
    other: &[
        "snowflake.engine",
        "lambda",
        "k8s",
        "spark.engine",
        "ray.engine",
        "flink.engine",
        "spark_application",
        "trino.engine",
        "trino",
    ],
    replaced_by: Some("thali materializes with its own engine"),
};

pub(crate) static AUTH: Store = Store {
    section: "auth",
    label: "auth",
    default: "no_auth",
    supported: || vec![("no_auth", &NO_AUTH)],
    other: &["kubernetes", "oidc"],
    replaced_by: None,
};
