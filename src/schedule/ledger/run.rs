//! Runs as the ledger keeps them.

use chrono::{DateTime, Utc};
use serde::Serialize;

/// What started a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Trigger {
    Cli,
    Http,
    Schedule,
}

impl Trigger {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Cli => "cli",
            Self::Http => "http",
            Self::Schedule => "schedule",
        }
    }
}

/// How a run stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RunState {
    Running,
    Succeeded,
    Failed,
    Cancelled,
}

impl RunState {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    pub(super) fn parse(text: &str) -> Self {
        match text {
            "running" => Self::Running,
            "succeeded" => Self::Succeeded,
            "cancelled" => Self::Cancelled,
            _ => Self::Failed,
        }
    }
}

/// A run that is about to start.
#[derive(Debug, Clone)]
pub struct NewRun {
    pub project: String,
    pub feature_view: String,
    /// `materialize` or `materialize-incremental`.
    pub kind: &'static str,
    pub trigger: Trigger,
    /// The scheduled moment it stands for; a second run of the same slot is refused.
    pub slot: Option<DateTime<Utc>>,
}

/// A run as kept, in the shape the jobs page shows.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Run {
    pub id: String,
    pub project: String,
    pub feature_view: String,
    pub kind: String,
    pub trigger: String,
    pub state: RunState,
    #[serde(skip)]
    pub slot: Option<DateTime<Utc>>,
    pub window_start: Option<DateTime<Utc>>,
    pub window_end: Option<DateTime<Utc>>,
    pub started_at: DateTime<Utc>,
    pub ended_at: Option<DateTime<Utc>>,
    pub rows_read: u64,
    pub rows_written: u64,
    /// Rows passed over because an earlier run had stored them.
    pub rows_resumed: u64,
    /// Writes to the store.
    pub chunks: u64,
    pub error: Option<String>,
}

/// Which runs to list.
#[derive(Debug, Clone, Default)]
pub struct RunFilter {
    pub project: Option<String>,
    pub feature_view: Option<String>,
    /// 0 lists 100.
    pub limit: u32,
}
