//! `/monitoring/*`: Feast's data quality monitoring, which answers 503 unless it is configured; here it
//! never is.

use super::reply::{Answer, Failure};

/// Methods and paths, below `/monitoring/`.
pub(super) const ROUTES: [(&str, &str); 11] = [
    ("post", "compute"),
    ("post", "auto_compute"),
    ("post", "compute/log"),
    ("post", "auto_compute/log"),
    ("post", "compute/transient"),
    ("get", "jobs/{job_id}"),
    ("get", "metrics/features"),
    ("get", "metrics/feature_views"),
    ("get", "metrics/feature_services"),
    ("get", "metrics/baseline"),
    ("get", "metrics/timeseries"),
];

/// Every route of it.
pub(super) async fn disabled() -> Answer {
    let message = "Monitoring is not enabled: add data_quality_monitoring section to feature_store.yaml";
    Err(Failure::http(503, message))
}
