//! [`Checkpoint`]: how far an unfinished run of a view came, for the next one to go on from.
//!
//! Rows are stored pass by pass over ranges of keys, and within a pass part by part of the source, each in
//! its order, or all of them in the order of their keys. So the range and a count of rows for each part say
//! what is stored. They hold only for the very same view, window, rows of the source and kind of store; where a
//! source cannot tell whether its rows are the same (a query, another offline server), nothing is skipped. All
//! is stored again then, which is right all the same, as no store goes back in event time.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{
    model::{FeatureView, entity_key::Version},
    online::store::OlderRow,
};

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Checkpoint {
    /// What was being done; see [`spec`].
    pub(super) spec: String,
    pub(super) start: DateTime<Utc>,
    pub(super) end: DateTime<Utc>,
    /// Of an incremental run: until when the view had been materialized before.
    pub(super) since: Option<DateTime<Utc>>,
    pub(super) incremental: bool,
    /// The range of keys of the current pass; those before it are stored.
    pub(super) first: u64,
    pub(super) last: u64,
    /// What the source's rows were known by.
    pub(super) source: Option<String>,
    /// Of each part, how many of its first rows are stored as far as they are newest.
    pub(super) stored: Vec<u64>,
}

impl Checkpoint {
    /// The beginning of a run.
    pub(super) fn start(spec: String, start: DateTime<Utc>, end: DateTime<Utc>) -> Self {
        Self {
            spec,
            start,
            end,
            since: None,
            incremental: false,
            first: 0,
            last: u64::MAX,
            source: None,
            stored: Vec::new(),
        }
    }

    /// Whether nothing is stored yet.
    pub(super) fn is_start(&self) -> bool {
        self.first == 0 && self.stored.iter().all(|rows| *rows == 0)
    }

    /// Begins anew.
    pub(super) fn restart(&mut self) {
        self.first = 0;
        self.last = u64::MAX;
        self.source = None;
        self.stored.clear();
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }

    pub(super) fn text(&self) -> Option<String> {
        serde_json::to_string(self).ok()
    }
}

/// What decides which bytes are stored for a row, in a few letters.
pub(super) fn spec(view: &FeatureView, version: Version, older: OlderRow, store: &str) -> String {
    let parts = (
        &view.join_keys,
        &view.features,
        &view.batch_source,
        version,
        older,
        store,
    );
    hex::encode(Sha256::digest(format!("{parts:?}")))
}
