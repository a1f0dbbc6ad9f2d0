//! Every metric of the process, as fields of one struct handed to whoever counts. Feast's names
//! (`feast/metrics.py`) where Feast has the metric, `thali_…` otherwise. No global state.

use std::fmt::Write as _;

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};
use std::{sync::atomic::AtomicU64, time::Duration};

const LATENCY_BUCKETS: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
const TRANSFORM_BUCKETS: [f64; 11] = [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0];
const READ_BUCKETS: [f64; 12] = [
    0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];
const MATERIALIZE_BUCKETS: [f64; 10] = [1.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0];
const ENTITY_BUCKETS: [f64; 9] = [1.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0];
const OFFLINE_BUCKETS: [f64; 10] = [0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0];
const ROW_BUCKETS: [f64; 7] = [1e2, 1e3, 1e4, 1e5, 5e5, 1e6, 5e6];

/// Labels of an HTTP request.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RequestLabels {
    /// The route, never the raw path.
    pub endpoint: String,
    /// `success` or `error`.
    pub status: &'static str,
}

/// Labels of a request's latency.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct LatencyLabels {
    pub endpoint: String,
    /// Empty where no features are asked for.
    pub feature_count: String,
    pub feature_view_count: String,
}

/// The type of an online store.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct StoreLabel {
    pub store: &'static str,
}

/// A process.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ProcessLabel {
    pub pid: u32,
}

/// A view and how something about it ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ViewStatus {
    pub feature_view: String,
    pub status: &'static str,
}

/// A view.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ViewLabel {
    pub feature_view: String,
}

/// A view of a project.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ProjectView {
    pub feature_view: String,
    pub project: String,
}

/// A push source and where it was pushed to.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct PushLabels {
    pub push_source: String,
    pub mode: &'static str,
}

/// A data source.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct SourceLabel {
    pub data_source: String,
}

/// A feature service and what became of rows for its log: `written`, `queue_full` or `failed`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct LogLabels {
    pub feature_service: String,
    pub outcome: &'static str,
}

/// A command of the offline server.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct FlightCommand {
    pub command: &'static str,
}

/// A command of the offline server and how it ended: `success`, `error`, `timeout`, `cancelled` (its client
/// went away) or `refused` (there were too many).
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct FlightOutcome {
    pub command: &'static str,
    pub outcome: &'static str,
}

/// What a command of the offline server takes `in` or gives `out`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct FlightFlow {
    pub command: &'static str,
    pub direction: &'static str,
}

/// An on-demand view and how it is written.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct TransformLabels {
    pub odfv_name: String,
    pub mode: &'static str,
}

/// An offline store method and how it ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct MethodStatus {
    pub method: String,
    pub status: &'static str,
}

/// An offline store method.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct MethodLabel {
    pub method: String,
}

/// Which of Feast's metrics are shown. thali's own always are.
#[derive(Debug, Clone, PartialEq)]
pub struct MetricsConfig {
    pub resource: bool,
    pub request: bool,
    pub online_features: bool,
    pub push: bool,
    pub materialization: bool,
    pub freshness: bool,
    pub offline_features: bool,
    /// Upper ends of the ranges that numbers of features are told in.
    pub feature_count_bins: Vec<usize>,
}

impl Default for MetricsConfig {
    fn default() -> Self {
        Self {
            resource: true,
            request: true,
            online_features: true,
            push: true,
            materialization: true,
            freshness: true,
            offline_features: true,
            feature_count_bins: vec![10, 50, 200],
        }
    }
}

type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

/// The metrics of a node.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    pub requests: Family<RequestLabels, Counter>,
    pub request_latency: Histograms<LatencyLabels>,
    pub online_requests: Counter,
    pub online_entities: Histogram,
    pub online_statuses: Family<ViewStatus, Counter>,
    /// Counted by [`Metrics::store_read`].
    online_store_read: Histogram,
    /// As `online_store_read`, by store; a store made of several observes each of them.
    pub store_reads: Histograms<StoreLabel>,
    pub transformation: Histograms<TransformLabels>,
    pub write_transformation: Histograms<TransformLabels>,
    pub pushes: Family<PushLabels, Counter>,
    pub materializations: Family<ViewStatus, Counter>,
    pub materialization_duration: Histograms<ViewLabel>,
    /// Seconds between now and the newest materialized event time; written when scraped by the node.
    pub freshness: Family<ProjectView, Gauge<f64, AtomicU64>>,
    pub offline_requests: Family<MethodStatus, Counter>,
    pub offline_latency: Histograms<MethodLabel>,
    pub offline_rows: Histograms<MethodLabel>,
    /// Percent of one core, as psutil counts it.
    pub cpu: Family<ProcessLabel, Gauge<f64, AtomicU64>>,
    /// Percent of the machine's memory.
    pub memory: Family<ProcessLabel, Gauge<f64, AtomicU64>>,
    pub in_flight: Gauge,
    pub shed: Counter,
    pub plan_hits: Counter,
    pub plan_misses: Counter,
    pub materialized_rows: Family<ViewLabel, Counter>,
    pub materialized_chunks: Family<ViewLabel, Counter>,
    pub registry_refreshes: Counter,
    pub registry_failures: Counter,
    pub flight_in_flight: Family<FlightCommand, Gauge>,
    pub flight_commands: Family<FlightOutcome, Counter>,
    /// From the command's arrival to its last row.
    pub flight_seconds: Histograms<FlightCommand>,
    pub flight_rows: Family<FlightFlow, Counter>,
    pub flight_bytes: Family<FlightFlow, Counter>,
    /// Bytes of uploads in memory.
    pub flight_upload_bytes: Gauge,
    /// Rows that were acknowledged and that their source does not take.
    pub refused_rows: Family<SourceLabel, Counter>,
    pub log_rows: Family<LogLabels, Counter>,
    /// Rows in the queue.
    pub log_waiting: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new(&MetricsConfig::default())
    }
}

impl Metrics {
    /// All metrics, of which Feast's are shown as they are switched on.
    pub fn new(shown: &MetricsConfig) -> Self {
        let mut metrics = Self {
            registry: Registry::default(),
            requests: Family::default(),
            request_latency: Family::new_with_constructor(|| Histogram::new(LATENCY_BUCKETS)),
            online_requests: Counter::default(),
            online_entities: Histogram::new(ENTITY_BUCKETS),
            online_statuses: Family::default(),
            online_store_read: Histogram::new(READ_BUCKETS),
            store_reads: Family::new_with_constructor(|| Histogram::new(READ_BUCKETS)),
            transformation: Family::new_with_constructor(|| Histogram::new(TRANSFORM_BUCKETS)),
            write_transformation: Family::new_with_constructor(|| Histogram::new(TRANSFORM_BUCKETS)),
            pushes: Family::default(),
            materializations: Family::default(),
            materialization_duration: Family::new_with_constructor(|| Histogram::new(MATERIALIZE_BUCKETS)),
            freshness: Family::default(),
            offline_requests: Family::default(),
            offline_latency: Family::new_with_constructor(|| Histogram::new(OFFLINE_BUCKETS)),
            offline_rows: Family::new_with_constructor(|| Histogram::new(ROW_BUCKETS)),
            cpu: Family::default(),
            memory: Family::default(),
            in_flight: Gauge::default(),
            shed: Counter::default(),
            plan_hits: Counter::default(),
            plan_misses: Counter::default(),
            materialized_rows: Family::default(),
            materialized_chunks: Family::default(),
            registry_refreshes: Counter::default(),
            registry_failures: Counter::default(),
            flight_in_flight: Family::default(),
            flight_commands: Family::default(),
            flight_seconds: Family::new_with_constructor(|| Histogram::new(OFFLINE_BUCKETS)),
            flight_rows: Family::default(),
            flight_bytes: Family::default(),
            flight_upload_bytes: Gauge::default(),
            refused_rows: Family::default(),
            log_rows: Family::default(),
            log_waiting: Gauge::default(),
        };
        metrics.register_requests(shown);
        metrics.register_work(shown);
        metrics.register_ours();
        metrics.register_flight();
        metrics
    }

    /// Counts a read of an online store.
    pub fn store_read(&self, store: &'static str, took: Duration) {
        self.online_store_read.observe(took.as_secs_f64());
        self.store_reads
            .get_or_create(&StoreLabel { store })
            .observe(took.as_secs_f64());
    }

    /// All metrics in the Prometheus text format.
    pub fn render(&self) -> String {
        let mut text = String::new();
        if encode(&mut text, &self.registry).is_err() {
            // Writing to a `String` cannot fail; keep what there is and say so.
            let _ = writeln!(text, "# incomplete");
        }
        text
    }

    fn register_requests(&mut self, shown: &MetricsConfig) {
        let r = &mut self.registry;
        if shown.resource {
            r.register(
                "feast_feature_server_cpu_usage",
                "Percent of a core that the process uses",
                self.cpu.clone(),
            );
            r.register(
                "feast_feature_server_memory_usage",
                "Percent of the machine's memory that the process holds",
                self.memory.clone(),
            );
        }
        if shown.request {
            r.register(
                "feast_feature_server_request",
                "Requests of the feature server",
                self.requests.clone(),
            );
            r.register(
                "feast_feature_server_request_latency_seconds",
                "Seconds from a request's arrival to its answer",
                self.request_latency.clone(),
            );
        }
        if shown.online_features {
            r.register(
                "feast_online_features_request",
                "Online retrievals",
                self.online_requests.clone(),
            );
            r.register(
                "feast_online_features_entity_count",
                "Entity rows asked for in one online retrieval",
                self.online_entities.clone(),
            );
            r.register(
                "feast_online_features_status",
                "Feature values answered, by view and status",
                self.online_statuses.clone(),
            );
            r.register(
                "feast_feature_server_online_store_read_duration_seconds",
                "Seconds one retrieval waited for the online store",
                self.online_store_read.clone(),
            );
            r.register(
                "feast_feature_server_transformation_duration_seconds",
                "Seconds an on demand transformation took",
                self.transformation.clone(),
            );
            r.register(
                "feast_feature_server_write_transformation_duration_seconds",
                "Seconds an on demand transformation took before its outputs were written",
                self.write_transformation.clone(),
            );
        }
    }

    fn register_work(&mut self, shown: &MetricsConfig) {
        let r = &mut self.registry;
        if shown.push {
            r.register(
                "feast_push_request",
                "Pushes, by source and target",
                self.pushes.clone(),
            );
        }
        if shown.materialization {
            r.register(
                "feast_materialization_result",
                "Materializations that ended",
                self.materializations.clone(),
            );
            r.register(
                "feast_materialization_duration_seconds",
                "Seconds a materialization of one view took",
                self.materialization_duration.clone(),
            );
        }
        if shown.freshness {
            r.register(
                "feast_feature_freshness_seconds",
                "Seconds since the newest materialized event time of a view",
                self.freshness.clone(),
            );
        }
        if shown.offline_features {
            r.register(
                "feast_offline_store_request",
                "Offline retrievals and pulls",
                self.offline_requests.clone(),
            );
            r.register(
                "feast_offline_store_request_latency_seconds",
                "Seconds an offline request took",
                self.offline_latency.clone(),
            );
            r.register(
                "feast_offline_store_row_count",
                "Rows an offline request answered",
                self.offline_rows.clone(),
            );
        }
    }

    fn register_flight(&mut self) {
        let r = &mut self.registry;
        r.register(
            "thali_flight_in_flight",
            "Commands the offline server is working on",
            self.flight_in_flight.clone(),
        );
        r.register(
            "thali_flight_commands",
            "Commands of the offline server, by how they ended",
            self.flight_commands.clone(),
        );
        r.register(
            "thali_flight_seconds",
            "Seconds from a command's arrival to its last row",
            self.flight_seconds.clone(),
        );
        r.register(
            "thali_flight_rows",
            "Rows the offline server took in and gave out",
            self.flight_rows.clone(),
        );
        r.register(
            "thali_flight_bytes",
            "Bytes of rows the offline server took in and gave out",
            self.flight_bytes.clone(),
        );
        r.register(
            "thali_flight_upload_bytes",
            "Bytes of uploads that the offline server holds",
            self.flight_upload_bytes.clone(),
        );
    }

    fn register_ours(&mut self) {
        let r = &mut self.registry;
        r.register(
            "thali_requests_in_flight",
            "HTTP requests being answered now",
            self.in_flight.clone(),
        );
        r.register(
            "thali_requests_shed",
            "Requests turned away because too many were being answered",
            self.shed.clone(),
        );
        r.register(
            "thali_online_store_read_seconds",
            "Seconds a read of an online store took, by its type",
            self.store_reads.clone(),
        );
        r.register(
            "thali_plan_hits",
            "Retrievals whose plan was known",
            self.plan_hits.clone(),
        );
        r.register(
            "thali_plan_misses",
            "Retrievals whose plan was made first",
            self.plan_misses.clone(),
        );
        r.register(
            "thali_materialized_rows",
            "Rows written to the online store by materialization",
            self.materialized_rows.clone(),
        );
        r.register(
            "thali_materialized_chunks",
            "Writes to the online store by materialization",
            self.materialized_chunks.clone(),
        );
        r.register(
            "thali_registry_refreshes",
            "Times the registry was found changed and was reloaded",
            self.registry_refreshes.clone(),
        );
        r.register(
            "thali_registry_failures",
            "Times the registry could not be looked at",
            self.registry_failures.clone(),
        );
        r.register(
            "thali_push_rows_refused",
            "Pushed rows that their data source did not take, which are set aside beside the push journal",
            self.refused_rows.clone(),
        );
        r.register(
            "thali_feature_log_rows",
            "Served rows for a service's log, by what became of them",
            self.log_rows.clone(),
        );
        r.register(
            "thali_feature_log_waiting",
            "Served rows that wait to be logged",
            self.log_waiting.clone(),
        );
    }
}

/// Feast's label for a number of features: the range it falls in.
pub fn feature_count_label(count: usize, bins: &[usize]) -> String {
    if count == 0 {
        return "0".to_owned();
    }
    let place = bins.partition_point(|&end| end < count);
    let first = place.checked_sub(1).map_or(1, |before| bins[before] + 1);
    match bins.get(place) {
        Some(end) => format!("{first}-{end}"),
        None => format!("{first}+"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_features_are_told_in_ranges() {
        let label = |count| feature_count_label(count, &[10, 50, 200]);
        let labels = [0, 1, 10, 11, 50, 51, 200, 201].map(label);
        let wanted = ["0", "1-10", "1-10", "11-50", "11-50", "51-200", "51-200", "201+"];
        assert_eq!(labels, wanted);
        assert_eq!(feature_count_label(3, &[]), "1+");
    }

    #[test]
    fn what_is_switched_off_is_not_shown() {
        let metrics = Metrics::new(&MetricsConfig {
            online_features: false,
            ..MetricsConfig::default()
        });
        let text = metrics.render();
        assert!(!text.contains("feast_online_features") && text.contains("thali_plan_hits"));
        assert!(Metrics::default().render().contains("feast_online_features"));
    }

    #[test]
    fn counters_carry_feasts_names() {
        let metrics = Metrics::default();
        metrics.online_requests.inc();
        let labels = RequestLabels {
            endpoint: "/push".into(),
            status: "success",
        };
        metrics.requests.get_or_create(&labels).inc();
        let text = metrics.render();
        assert!(text.contains("feast_online_features_request_total 1"), "{text}");
        assert!(text.contains("feast_feature_server_request_total{endpoint=\"/push\",status=\"success\"} 1"));
    }
}
