//! On-demand views whose outputs are stored: computed from the history of the views they read, at the times
//! of their newest rows in the window, as Feast does. A row has the event time it was computed for (Feast's
//! has the time of writing), so that an older window never replaces what a newer one left.

use std::sync::Arc;

use arrow::{
    array::ArrayRef,
    datatypes::{Field, Schema, SchemaRef},
    record_batch::RecordBatch,
};
use chrono::{DateTime, TimeDelta, Utc};
use futures::StreamExt as _;

use super::{FIRST_LOOK_BACK, Request, Window, copy::Counters};
use crate::{
    context::Context,
    error::{Error, Result},
    model::{FeatureView, OnDemandFeatureView, on_demand::OnDemandInput},
    offline::{
        retrieve::{self, HistoricalRequest, RequestRows, Wanted},
        store::Pull,
    },
    online::{ingest, plan::stored_form, store::Table},
    registry::Catalog,
};

/// Rows computed at a time: each time the histories are read once.
const ROWS: usize = 1 << 18;
const EVENT_TIMESTAMP: &str = "event_timestamp";

/// The views whose rows give the keys and times, or why there are none.
fn sources(view: &OnDemandFeatureView, catalog: &Catalog) -> Result<Vec<Arc<FeatureView>>> {
    let refused = |why: &str| {
        Error::invalid(format!(
            "on demand feature view `{}` cannot be materialized: {why}",
            view.name
        ))
    };
    if !view.write_to_online_store {
        return Err(refused("it is computed when it is read and stores nothing")
            .hint("set `write_to_online_store` on it"));
    }
    let keys = stored_form(view, catalog).join_keys;
    let mut sources: Vec<Arc<FeatureView>> = Vec::new();
    for input in &view.inputs {
        match input {
            OnDemandInput::Request { name, .. } => {
                return Err(refused(&format!("request source `{name}` has no history")));
            }
            OnDemandInput::View { view: name, .. } => {
                let source = catalog.stored_view(name)?;
                let has_keys = keys
                    .iter()
                    .all(|key| source.join_keys.iter().any(|own| own.name == key.name));
                if has_keys
                    && source.batch_source.is_some()
                    && !sources.iter().any(|known| known.name == *name)
                {
                    sources.push(Arc::clone(source));
                }
            }
        }
    }
    if sources.is_empty() || keys.is_empty() {
        return Err(refused(
            "none of the views it reads has rows for all its entities",
        ));
    }
    Ok(sources)
}

/// Whether rows of a view can be computed from histories.
pub(super) fn has_rows(view: &OnDemandFeatureView, catalog: &Catalog) -> bool {
    sources(view, catalog).is_ok()
}

/// Refuses a view whose rows cannot be.
pub(super) fn check(view: &OnDemandFeatureView, catalog: &Catalog) -> Result<()> {
    sources(view, catalog).map(drop)
}

/// The window of a run; nothing is recorded for such views, so an incremental one looks back as far as
/// the longest ttl of the views read.
pub(super) fn span(
    view: &OnDemandFeatureView,
    catalog: &Catalog,
    window: Window,
) -> (DateTime<Utc>, DateTime<Utc>) {
    match window {
        Window::Between { start, end } => (start, end),
        Window::Incremental { end } => {
            let ttls = sources(view, catalog).unwrap_or_default();
            let longest = ttls.iter().filter_map(|source| source.ttl).max();
            let back = longest.and_then(|ttl| TimeDelta::from_std(ttl).ok());
            (
                end - back.filter(|back| !back.is_zero()).unwrap_or(FIRST_LOOK_BACK),
                end,
            )
        }
    }
}

/// A run of one such view.
pub(super) struct Job<'a> {
    pub(super) context: &'a Context,
    pub(super) request: &'a Request,
    pub(super) catalog: &'a Catalog,
    pub(super) view: &'a OnDemandFeatureView,
    pub(super) counters: &'a Counters,
}

impl Job<'_> {
    /// Computes and stores what the window's newest rows come to.
    pub(super) async fn run(&self, start: DateTime<Utc>, end: DateTime<Utc>) -> Result<()> {
        let stored = Arc::new(stored_form(self.view, self.catalog));
        self.context
            .online
            .provision(&self.request.project, std::slice::from_ref(&stored), &[])
            .await?;
        for source in sources(self.view, self.catalog)? {
            let Some(batch_source) = &source.batch_source else {
                continue;
            };
            let time = batch_source.timestamp_field.clone();
            let pull = Pull {
                source: Arc::clone(batch_source),
                join_keys: source.join_keys.iter().map(|key| key.name.clone()).collect(),
                features: Vec::new(),
                start: Some(start),
                end: Some(end),
                latest_only: true,
            };
            let mut rows = self.context.offline.pull(pull).await?;
            let mut waiting = Vec::new();
            let mut count = 0;
            while let Some(batch) = rows.next().await {
                let batch = entity_rows(&batch?, &stored, &time)?;
                count += batch.num_rows();
                waiting.push(batch);
                if count >= ROWS {
                    self.store(&stored, std::mem::take(&mut waiting)).await?;
                    count = 0;
                }
            }
            if count > 0 {
                self.store(&stored, waiting).await?;
            }
        }
        Ok(())
    }

    async fn store(&self, stored: &Arc<FeatureView>, batches: Vec<RecordBatch>) -> Result<()> {
        let Some(schema) = batches.first().map(RecordBatch::schema) else {
            return Ok(());
        };
        let project = &self.request.project;
        let features = stored
            .features
            .iter()
            .map(|field| format!("{}:{}", self.view.name, field.name));
        let request = HistoricalRequest {
            rows: RequestRows::Given { schema, batches },
            wanted: Wanted::features(features.collect()),
            full_feature_names: false,
            filter_by_created: false,
        };
        let mut rows = retrieve::historical(self.context, project, request).await?;
        let version = self.context.config.entity_key_version;
        while let Some(batch) = rows.next().await {
            let batch = batch?;
            let encoded = ingest::write_batch(stored, version, &batch, EVENT_TIMESTAMP, None)?;
            let online = &self.context.online;
            let written = online
                .write(project, &Table::of(stored), &encoded, self.request.older)
                .await?;
            self.counters.add(batch.num_rows() as u64, written);
            if let Some(progress) = &self.request.progress {
                progress.rows(&self.view.name, self.counters.get());
            }
        }
        Ok(())
    }
}

/// The keys and times of a batch, under the names a join expects.
fn entity_rows(batch: &RecordBatch, stored: &FeatureView, time: &str) -> Result<RecordBatch> {
    let (mut fields, mut columns): (Vec<Field>, Vec<ArrayRef>) = (Vec::new(), Vec::new());
    let names = stored
        .join_keys
        .iter()
        .map(|key| (key.name.as_str(), key.name.as_str()));
    for (from, to) in names.chain([(time, EVENT_TIMESTAMP)]) {
        let place = batch.schema_ref().index_of(from)?;
        fields.push(batch.schema_ref().field(place).clone().with_name(to));
        columns.push(Arc::clone(batch.column(place)));
    }
    let schema: SchemaRef = Arc::new(Schema::new(fields));
    Ok(RecordBatch::try_new(schema, columns)?)
}
