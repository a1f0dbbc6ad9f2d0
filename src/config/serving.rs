//! What the online role is told: its limits in `thali.online`, and of Feast's `feature_server` section
//! what is measured and written down.

use std::{path::PathBuf, time::Duration};

use super::{
    check::Walk,
    problem::Problem,
    quantity,
    schema::{Kind, Schema, Unknown, accepted, missing, used},
    yaml::Value,
};
use crate::metrics::MetricsConfig;

/// How the online role defends itself, and how it answers.
#[derive(Debug, Clone, PartialEq)]
pub struct OnlineConfig {
    /// Bytes of a request's body, after it is unpacked.
    pub max_body: usize,
    /// Entity rows of one request.
    pub max_rows: usize,
    /// Requests being answered at the same time; more are turned away with 503.
    pub max_in_flight: usize,
    /// How long an answer may take; `None`: as long as it takes.
    pub request_timeout: Option<Duration>,
    /// Whether long answers are packed for callers that accept it.
    pub gzip: bool,
    /// Requests that take this long are logged; `None`: none are.
    pub slow_request: Option<Duration>,
}

impl Default for OnlineConfig {
    fn default() -> Self {
        Self {
            max_body: 64 << 20,
            max_rows: 100_000,
            max_in_flight: 1024,
            request_timeout: Some(Duration::from_secs(30)),
            gzip: true,
            slow_request: None,
        }
    }
}

/// How an entity that the store does not know is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum UnknownEntity {
    /// As Feast's store of that type: Redis says `PRESENT`, the others `NOT_FOUND`.
    #[default]
    Store,
    Present,
    NotFound,
}

/// The `feature_server:` section.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct FeatureServerConfig {
    pub metrics: MetricsConfig,
    /// Where every request is written down; `None`: nowhere.
    pub audit: Option<AuditConfig>,
    /// `transformation_service_endpoint`: who runs on-demand functions over data frames.
    pub transformation_service: Option<String>,
    /// How services' answers are logged; `None`: they are not.
    pub feature_log: Option<FeatureLogConfig>,
    /// How pushed rows wait for the offline store; `None`: they do not.
    pub push_batching: Option<PushBatching>,
}

/// Feast's `offline_push_batching_…`, and where the rows are kept meanwhile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PushBatching {
    pub batch_size: usize,
    pub interval: Duration,
    /// A folder.
    pub journal: PathBuf,
    /// The most bytes that may wait.
    pub limit: u64,
}

/// Feast's log of served features.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeatureLogConfig {
    /// Rows that may wait to be logged; those that come then are dropped.
    pub queue_rows: usize,
    /// How often logs are written to.
    pub interval: Duration,
}

/// Feast's audit log of requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditConfig {
    pub sink: AuditSink,
    /// Whether reads that were answered are written down as well.
    pub successful_reads: bool,
}

/// Where audit events go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuditSink {
    Stdout,
    File(PathBuf),
    /// Among the other log lines.
    Log,
}

/// The keys of `thali.online`.
pub(super) static LIMITS: Schema = Schema {
    unknown: Unknown::Refused,
    keys: &[
        used("max_body", Kind::Size, Some("64MiB")),
        used("max_rows", Kind::Int, Some("100000")),
        used("max_in_flight", Kind::Int, Some("1024")),
        used("request_timeout_seconds", Kind::Float, Some("30")),
        used("gzip", Kind::Bool, Some("true")),
        used("slow_request_ms", Kind::Float, Some("0")),
    ],
};

/// The keys of `feature_server.metrics`.
pub(super) static METRICS: Schema = Schema {
    unknown: Unknown::Refused,
    keys: &[
        accepted("enabled", Kind::Bool),
        used("resource", Kind::Bool, None),
        used("request", Kind::Bool, None),
        used("online_features", Kind::Bool, None),
        used("push", Kind::Bool, None),
        used("materialization", Kind::Bool, None),
        used("freshness", Kind::Bool, None),
        used("offline_features", Kind::Bool, None),
        used("feature_count_bins", Kind::List, None),
        missing(
            "audit_logging",
            Kind::Bool,
            "retrievals are not logged one by one; `feature_server.audit_logging` has every request",
        ),
    ],
};

/// The keys of `feature_server.audit_logging`.
pub(super) static AUDIT: Schema = Schema {
    unknown: Unknown::Refused,
    keys: &[
        used("enabled", Kind::Bool, None),
        used("sink", Kind::Choice(&["stdout", "file", "logger"]), None),
        used("file_path", Kind::Text, None),
        used("log_successful_reads", Kind::Bool, None),
    ],
};

/// The keys of `feature_server.feature_logging`.
pub(super) static FEATURE_LOGGING: Schema = Schema {
    unknown: Unknown::Refused,
    keys: &[
        used("enabled", Kind::Bool, None),
        used("flush_interval_secs", Kind::Int, None),
        used("queue_capacity", Kind::Int, None),
        missing(
            "write_to_disk_interval_secs",
            Kind::Int,
            "rows wait in memory until they are added to their log, every `flush_interval_secs` or when they are many",
        ),
        missing(
            "emit_timeout_micro_secs",
            Kind::Int,
            "a request never waits for the log: rows that do not fit in the queue are dropped at once and counted",
        ),
    ],
};

/// Reads `thali.online`.
pub(super) fn online(walk: &mut Walk) -> Option<OnlineConfig> {
    let size = walk
        .settings
        .text("thali.online.max_body")
        .and_then(quantity::bytes);
    let timeout = quantity::seconds(walk, "thali.online.request_timeout_seconds");
    let slow = walk
        .settings
        .float("thali.online.slow_request_ms")
        .unwrap_or_default();
    Some(OnlineConfig {
        max_body: usize::try_from(size?).unwrap_or(usize::MAX),
        max_rows: super::build::positive(walk, "thali.online.max_rows")?,
        max_in_flight: super::build::positive(walk, "thali.online.max_in_flight")?,
        request_timeout: (!timeout.is_zero()).then_some(timeout),
        gzip: walk.settings.bool("thali.online.gzip").unwrap_or(true),
        slow_request: Duration::try_from_secs_f64(slow / 1000.0)
            .ok()
            .filter(|slow| !slow.is_zero()),
    })
}

/// Reads `thali.unknown_entity`.
pub(super) fn unknown_entity(walk: &Walk) -> UnknownEntity {
    match walk.settings.text("thali.unknown_entity") {
        Some("present") => UnknownEntity::Present,
        Some("not_found") => UnknownEntity::NotFound,
        _ => UnknownEntity::Store,
    }
}

/// Reads `feature_server`.
pub(super) fn feature_server(walk: &mut Walk) -> FeatureServerConfig {
    let bins = feature_count_bins(walk);
    let settings = &walk.settings;
    let shown = |name: &str| {
        settings
            .bool(&format!("feature_server.metrics.{name}"))
            .unwrap_or(true)
    };
    let metrics = MetricsConfig {
        resource: shown("resource"),
        request: shown("request"),
        online_features: shown("online_features"),
        push: shown("push"),
        materialization: shown("materialization"),
        freshness: shown("freshness"),
        offline_features: shown("offline_features"),
        feature_count_bins: bins.unwrap_or(MetricsConfig::default().feature_count_bins),
    };
    let audit = |name: &str| format!("feature_server.audit_logging.{name}");
    let sink = match settings.text(&audit("sink")) {
        Some("file") => AuditSink::File(
            settings
                .text(&audit("file_path"))
                .unwrap_or("feast_audit.log")
                .into(),
        ),
        Some("logger") => AuditSink::Log,
        _ => AuditSink::Stdout,
    };
    let wanted = settings.bool(&audit("enabled")).unwrap_or(false);
    FeatureServerConfig {
        metrics,
        transformation_service: settings
            .text("feature_server.transformation_service_endpoint")
            .map(str::to_owned),
        audit: wanted.then(|| AuditConfig {
            sink,
            successful_reads: settings.bool(&audit("log_successful_reads")).unwrap_or(true),
        }),
        feature_log: feature_log(walk),
        push_batching: push_batching(walk),
    }
}

/// Off unless it is switched on, with Feast's numbers.
fn feature_log(walk: &mut Walk) -> Option<FeatureLogConfig> {
    let key = |name: &str| format!("feature_server.feature_logging.{name}");
    let wanted = walk.settings.bool(&key("enabled")).unwrap_or(false);
    let mut number = |name: &str, usual: u32| match walk.settings.int(&key(name)) {
        None => usual,
        Some(number) => {
            let fits = u32::try_from(number).ok().filter(|&number| number > 0);
            if fits.is_none() {
                let line = walk.settings.line(&key(name));
                let problem = Problem::error("a whole number above 0 is wanted here").at(line);
                walk.report(problem.key(key(name)));
            }
            fits.unwrap_or(usual)
        }
    };
    let (interval, queue) = (
        number("flush_interval_secs", 600),
        number("queue_capacity", 100_000),
    );
    wanted.then(|| FeatureLogConfig {
        queue_rows: usize::try_from(queue).unwrap_or(usize::MAX),
        interval: Duration::from_secs(interval.into()),
    })
}

/// As in Feast, rows are appended one push at a time unless size and interval are both set.
fn push_batching(walk: &mut Walk) -> Option<PushBatching> {
    let key = |name: &str| format!("feature_server.offline_push_batching_{name}");
    if walk.settings.bool(&key("enabled")) != Some(true) {
        return None;
    }
    let set = |name: &str| {
        walk.settings
            .int(&key(name))
            .and_then(|number| usize::try_from(number).ok())
    };
    let (Some(batch_size), Some(interval)) = (set("batch_size"), set("batch_interval_seconds")) else {
        let line = walk.settings.line(&key("enabled"));
        let problem = Problem::warning("has no effect without a batch size and an interval").at(line);
        walk.report(problem.key(key("enabled")).hint(
            "set `offline_push_batching_batch_size` and `offline_push_batching_batch_interval_seconds`",
        ));
        return None;
    };
    let settings = &walk.settings;
    let limit = settings
        .text("thali.push_journal_limit")
        .and_then(quantity::bytes);
    Some(PushBatching {
        batch_size: batch_size.max(1),
        interval: Duration::from_secs(interval.max(1) as u64),
        journal: settings
            .text("thali.push_journal")
            .unwrap_or("data/push_journal")
            .into(),
        limit: limit.unwrap_or(256 << 20),
    })
}

fn feature_count_bins(walk: &mut Walk) -> Option<Vec<usize>> {
    const KEY: &str = "feature_server.metrics.feature_count_bins";
    let Value::List(nodes) = walk.settings.value(KEY)? else {
        return None;
    };
    let bins: Option<Vec<usize>> = nodes.iter().map(|node| node.scalar()?.parse().ok()).collect();
    let bins = bins.filter(|bins| bins.first() > Some(&0) && bins.is_sorted_by(|a, b| a < b));
    if bins.is_none() {
        let line = walk.settings.line(KEY);
        let problem = Problem::error("whole numbers that grow are wanted here").at(line);
        walk.report(problem.key(KEY).hint("for example [10, 50, 200]"));
    }
    bins
}
