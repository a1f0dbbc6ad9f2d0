//! Runs on their way from one ledger to another.

use chrono::{DateTime, Utc};

use super::{Failure, Ledger, Run, RunState, Value, text};
use crate::{
    error::Result, model::feature_view::timestamp, proto::thali::registry::ArchivedRun,
    registry::store::proto_time,
};

impl Run {
    /// The run as archives keep it; `None` while it is running.
    pub fn archived(&self) -> Option<ArchivedRun> {
        (self.state != RunState::Running).then(|| ArchivedRun {
            id: self.id.clone(),
            feature_view: self.feature_view.clone(),
            kind: self.kind.clone(),
            trigger: self.trigger.clone(),
            slot: self.slot.map(proto_time),
            state: self.state.name().to_owned(),
            window_start: self.window_start.map(proto_time),
            window_end: self.window_end.map(proto_time),
            started_at: Some(proto_time(self.started_at)),
            ended_at: self.ended_at.map(proto_time),
            rows_read: self.rows_read,
            rows_written: self.rows_written,
            error: self.error.clone(),
        })
    }
}

impl Ledger {
    /// Puts back runs that have ended; those that are here already stay as they are.
    ///
    /// # Errors
    /// `Unavailable` when the ledger cannot be written.
    pub async fn restore(&self, project: &str, runs: &[ArchivedRun]) -> Result<()> {
        let statement = "INSERT INTO thali_runs (id, project, feature_view, kind, \"trigger\", slot, state, \
             window_start, window_end, started_at, heartbeat_at, ended_at, rows_read, rows_written, error) \
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
        let micros = |at: Option<&prost_types::Timestamp>| {
            let at: Option<DateTime<Utc>> = at.and_then(timestamp);
            Value::Number(at.map(|at| at.timestamp_micros()))
        };
        let count = |rows: u64| Value::Number(Some(i64::try_from(rows).unwrap_or(i64::MAX)));
        for run in runs {
            let started = run.started_at.as_ref();
            let values = [
                text(&run.id),
                text(project),
                text(&run.feature_view),
                text(&run.kind),
                text(&run.trigger),
                micros(run.slot.as_ref()),
                text(&run.state),
                micros(run.window_start.as_ref()),
                micros(run.window_end.as_ref()),
                micros(started.or(Some(&prost_types::Timestamp::default()))),
                micros(started.or(Some(&prost_types::Timestamp::default()))),
                micros(run.ended_at.as_ref()),
                count(run.rows_read),
                count(run.rows_written),
                Value::Text(run.error.clone()),
            ];
            match self.write(statement, &values).await {
                Ok(_) | Err(Failure::Duplicate) => {}
                Err(Failure::Other(error)) => return Err(error),
            }
        }
        Ok(())
    }
}
