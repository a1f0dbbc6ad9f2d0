//! `thali.offline`: what the offline server takes on.

use std::{path::PathBuf, time::Duration};

use super::{
    build::positive,
    check::Walk,
    quantity,
    schema::{Kind, Schema, Unknown, used},
};

/// The limits of the offline server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OfflineConfig {
    /// Bytes of one upload; `None`: as many as `thali.memory_limit`, which all of them share in any case.
    pub max_upload: Option<u64>,
    /// Rows of one upload.
    pub max_upload_rows: usize,
    /// Commands being worked on at the same time; more are turned away.
    pub max_queries: usize,
    /// How long a command may take, to its last row; `None`: as long as it takes.
    pub query_timeout: Option<Duration>,
    /// A folder for uploads whose read comes later, as older SDKs do it.
    pub upload_folder: PathBuf,
}

impl Default for OfflineConfig {
    fn default() -> Self {
        Self {
            max_upload: None,
            max_upload_rows: 100_000_000,
            max_queries: 64,
            query_timeout: None,
            upload_folder: "data/flight_uploads".into(),
        }
    }
}

/// The keys.
pub(super) static SCHEMA: Schema = Schema {
    unknown: Unknown::Refused,
    keys: &[
        used("max_upload", Kind::Size, None),
        used("max_upload_rows", Kind::Int, Some("100000000")),
        used("max_queries", Kind::Int, Some("64")),
        used("query_timeout_seconds", Kind::Float, Some("0")),
        used("upload_folder", Kind::Text, Some("data/flight_uploads")),
    ],
};

/// Reads the section.
pub(super) fn offline(walk: &mut Walk) -> Option<OfflineConfig> {
    let timeout = quantity::seconds(walk, "thali.offline.query_timeout_seconds");
    let usual = OfflineConfig::default();
    Some(OfflineConfig {
        max_upload: walk
            .settings
            .text("thali.offline.max_upload")
            .and_then(quantity::bytes),
        max_upload_rows: positive(walk, "thali.offline.max_upload_rows")?,
        max_queries: positive(walk, "thali.offline.max_queries")?,
        query_timeout: (!timeout.is_zero()).then_some(timeout),
        upload_folder: walk
            .settings
            .text("thali.offline.upload_folder")
            .map_or(usual.upload_folder, PathBuf::from),
    })
}
