//! Materialization: a window of a view's history, streamed into the online store.
//!
//! [`run`] is for a number of views; a view's run is `run`, what it does with the rows `copy`. Each key is
//! stored once, with its newest row by event time, then created time; memory is bounded whatever the window.
//! How far a run is is noted down as it goes (`checkpoint`), so that the next run of the view goes on where
//! one was killed. Views are served throughout.

mod checkpoint;
mod computed;
mod copy;
mod newest;
mod ordered;
mod run;

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::{DateTime, TimeDelta, Utc};
use tokio_util::sync::CancellationToken;

use crate::{
    config::quantity,
    context::Context,
    error::{Error, Result},
    model::{FeatureView, ObjectKind, OnDemandFeatureView},
    online::{precompute, store::OlderRow},
    registry::{Catalog, View},
    schedule::ledger::{Counts, Trigger},
};

/// The tag of a view that says how far an incremental run looks back for rows that came late; it wins over
/// `thali.materialize_lookback`.
pub const LOOKBACK_TAG: &str = "thali.lookback";

/// How far an incremental run of a view without ttl and without earlier runs looks back
/// (`feast/feature_store.py`, `materialize_incremental`).
const FIRST_LOOK_BACK: TimeDelta = TimeDelta::weeks(52);

/// Which event times to materialize; both ends belong to the window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Window {
    Between {
        start: DateTime<Utc>,
        end: DateTime<Utc>,
    },
    /// From where the view's last run ended.
    Incremental { end: DateTime<Utc> },
}

/// Is told how a run goes. Calls must not block.
pub trait Progress: Send + Sync {
    fn view_started(&self, view: &str, start: DateTime<Utc>, end: DateTime<Utc>);
    fn rows(&self, view: &str, counts: Counts);
    fn view_finished(&self, report: &Report);
}

/// What to materialize.
#[derive(Clone)]
pub struct Request {
    pub project: String,
    /// Empty means every enabled online view.
    pub views: Vec<String>,
    pub window: Window,
    pub trigger: Trigger,
    /// The scheduled moment this run stands for.
    pub slot: Option<DateTime<Utc>>,
    /// Whether rows older than the stored ones overwrite them.
    pub older: OlderRow,
    pub progress: Option<Arc<dyn Progress>>,
}

impl Request {
    /// A request for `views` without schedule, progress or backfill.
    pub fn new(project: &str, views: Vec<String>, window: Window, trigger: Trigger) -> Self {
        Self {
            project: project.to_owned(),
            views,
            window,
            trigger,
            slot: None,
            older: OlderRow::Skip,
            progress: None,
        }
    }
}

/// What a run did for one view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    pub view: String,
    pub start: DateTime<Utc>,
    pub end: DateTime<Utc>,
    pub counts: Counts,
    pub elapsed: Duration,
}

/// A view that can be materialized.
#[derive(Debug, Clone)]
pub enum Target {
    Stored(Arc<FeatureView>),
    /// An on-demand view whose outputs are stored.
    Computed(Arc<OnDemandFeatureView>),
}

impl Target {
    /// The view's name.
    pub fn name(&self) -> &str {
        match self {
            Self::Stored(view) => &view.name,
            Self::Computed(view) => &view.name,
        }
    }
}

/// Materializes the views one after the other; a view that another process materializes is waited for.
///
/// # Errors
/// Bad views and windows are refused before anything is read. A view that fails stops the run; the
/// views before it keep what was recorded.
pub async fn run(context: &Context, request: Request, cancel: CancellationToken) -> Result<Vec<Report>> {
    let (catalog, views) = checked(context, &request).await?;
    let mut reports = Vec::with_capacity(views.len());
    for view in views {
        if let Some(report) = run::run_view(context, &request, &view, &cancel).await? {
            reports.push(report);
        }
    }
    let written: Vec<&str> = reports.iter().map(|report| report.view.as_str()).collect();
    precompute::Maker::new(context, &catalog)
        .after_materialization(&written)
        .await?;
    Ok(reports)
}

/// What a run would do: rows of the windows are read and keys counted, nothing is stored or recorded.
///
/// # Errors
/// As [`run`].
pub async fn dry_run(context: &Context, request: &Request) -> Result<Vec<Report>> {
    let (_, views) = checked(context, request).await?;
    let mut reports = Vec::with_capacity(views.len());
    for view in views {
        // What on-demand views store is computed from other views' rows; it is not looked at here.
        let Target::Stored(view) = view else { continue };
        let began = Instant::now();
        let (start, end) = span(context, &view, request.window)?;
        let (read, written) = run::count(context, request, &view, (start, end)).await?;
        reports.push(Report {
            view: view.name.clone(),
            start,
            end,
            counts: Counts {
                read,
                written,
                ..Counts::default()
            },
            elapsed: began.elapsed(),
        });
    }
    Ok(reports)
}

async fn checked(context: &Context, request: &Request) -> Result<(Arc<Catalog>, Vec<Target>)> {
    let catalog = context.registry.fresh_catalog(&request.project).await?;
    let views = chosen(&catalog, &request.views)?;
    if let Window::Between { start, end } = request.window
        && start > end
    {
        return Err(Error::invalid(format!(
            "The given start_date {start} is greater than the given end_date {end}."
        )));
    }
    Ok((catalog, views))
}

/// The views a request without or with names means, each once, before anything is read; on-demand views come
/// last.
///
/// # Errors
/// `FeatureViewNotFound`, or `InvalidArgument` for a view that is not served online.
pub fn chosen(catalog: &Catalog, names: &[String]) -> Result<Vec<Target>> {
    if names.is_empty() {
        let stored = catalog.stored_views().into_iter();
        let stored = stored
            .filter(|view| view.online && view.enabled && view.kind != ObjectKind::LabelView)
            .filter(|view| view.batch_source.is_some())
            .map(|view| Target::Stored(Arc::clone(view)));
        let computed = catalog.views().filter_map(|view| match view {
            View::OnDemand(view) if view.enabled && computed::has_rows(view, catalog) => {
                Some(Target::Computed(Arc::clone(view)))
            }
            _ => None,
        });
        let mut computed: Vec<_> = computed.collect();
        computed.sort_by(|a, b| a.name().cmp(b.name()));
        return Ok(stored.chain(computed).collect());
    }
    let mut views = Vec::with_capacity(names.len());
    let mut seen = HashSet::new();
    for name in names.iter().filter(|name| seen.insert(*name)) {
        if let Some(View::OnDemand(view)) = catalog.view(name) {
            computed::check(view, catalog)?;
            views.push(Target::Computed(Arc::clone(view)));
            continue;
        }
        let view = catalog.stored_view(name)?;
        if !view.online {
            return Err(Error::invalid(format!(
                "FeatureView {name} is not configured to be served online."
            )));
        }
        if !view.enabled {
            return Err(Error::invalid(format!("feature view `{name}` is disabled")).hint("enable it first"));
        }
        if view.batch_source.is_none() {
            return Err(Error::invalid(format!(
                "feature view `{name}` has no batch source to materialize from"
            )));
        }
        views.push(Target::Stored(Arc::clone(view)));
    }
    views.sort_by_key(|view| matches!(view, Target::Computed(_)));
    Ok(views)
}

/// Where an incremental run of `view` starts.
pub fn incremental_start(view: &FeatureView, now: DateTime<Utc>) -> DateTime<Utc> {
    view.materialized_until().unwrap_or_else(|| {
        let back = view
            .ttl
            .and_then(|ttl| TimeDelta::from_std(ttl).ok())
            .unwrap_or(FIRST_LOOK_BACK);
        now - back
    })
}

/// How far before its beginning an incremental run of `view` looks for rows that came late.
fn lookback(context: &Context, view: &FeatureView) -> Result<TimeDelta> {
    let Some(text) = view.tags.get(LOOKBACK_TAG) else {
        return Ok(TimeDelta::from_std(context.config.thali.materialize_lookback).unwrap_or(TimeDelta::MAX));
    };
    let found = quantity::duration(text).and_then(|span| TimeDelta::from_std(span).ok());
    found.ok_or_else(|| {
        Error::invalid(format!(
            "tag `{LOOKBACK_TAG}` of feature view `{}` is `{text}`, which is no span of time",
            view.name
        ))
        .hint("write for example `2h`")
    })
}

/// The window of a run of `view` as its intervals are now.
fn span(context: &Context, view: &FeatureView, window: Window) -> Result<(DateTime<Utc>, DateTime<Utc>)> {
    Ok(match window {
        Window::Between { start, end } => (start, end),
        Window::Incremental { end } => {
            let start = incremental_start(view, Utc::now());
            (start - lookback(context, view)?, end)
        }
    })
}
