//! A run of one view: its lease, its line in the ledger, its windows, and what is recorded in the end.

use std::{sync::Arc, time::Duration, time::Instant};

use chrono::{DateTime, Utc};
use tokio_util::sync::CancellationToken;

use super::{
    Report, Request, Target, Window,
    checkpoint::{Checkpoint, spec},
    computed,
    copy::{Copy, Counters},
    lookback, span,
};
use crate::{
    context::Context,
    error::{Error, Result},
    metrics::{ViewLabel, ViewStatus},
    model::{FeatureView, Interval},
    schedule::ledger::{LEASE, Lease, NewRun, RunState},
};

/// Runs one view under its lease and keeps the ledger; `None` when its slot was taken by another.
pub(super) async fn run_view(
    context: &Context,
    request: &Request,
    view: &Target,
    cancel: &CancellationToken,
) -> Result<Option<Report>> {
    let name = view.name().to_owned();
    let kind = match request.window {
        Window::Between { .. } => "materialize",
        Window::Incremental { .. } => "materialize-incremental",
    };
    let new = NewRun {
        project: request.project.clone(),
        feature_view: name.clone(),
        kind,
        trigger: request.trigger,
        slot: request.slot,
    };
    let Some(id) = context.ledger.start(&new).await? else {
        return Ok(None);
    };
    let counters = Arc::new(Counters::default());
    let stop = cancel.child_token();
    let run = Run {
        context: context.clone(),
        request: request.clone(),
        view: view.clone(),
        id: id.clone(),
        counters: Arc::clone(&counters),
        stop: stop.clone(),
    };
    let outcome = context
        .background
        .run(async move {
            tokio::select! {
                outcome = run.leased() => outcome,
                error = run.keep_alive() => Err(error),
            }
        })
        .await;
    let (state, text) = match &outcome {
        Ok(_) => (RunState::Succeeded, None),
        Err(_) if stop.is_cancelled() => (RunState::Cancelled, Some("cancelled".to_owned())),
        Err(error) => (RunState::Failed, Some(error.one_line())),
    };
    let finished = context.ledger.finish(&id, state, counters.get(), text.as_deref());
    finished.await?;
    let status = if outcome.is_ok() { "success" } else { "failure" };
    context
        .metrics
        .materializations
        .get_or_create(&ViewStatus {
            feature_view: name.clone(),
            status,
        })
        .inc();
    let report = outcome.map_err(|error| error.context(format!("materializing `{name}`")))?;
    context
        .metrics
        .materialization_duration
        .get_or_create(&ViewLabel { feature_view: name })
        .observe(report.elapsed.as_secs_f64());
    if let Some(progress) = &request.progress {
        progress.view_finished(&report);
    }
    Ok(Some(report))
}

/// Rows of a window and their keys.
pub(super) async fn count(
    context: &Context,
    request: &Request,
    view: &Arc<FeatureView>,
    (start, end): (DateTime<Utc>, DateTime<Utc>),
) -> Result<(u64, u64)> {
    let copy = Arc::new(Copy::new(context, &request.project, view, request.older));
    let state = Checkpoint::start(String::new(), start, end);
    context
        .background
        .run(async move { copy.count(state).await })
        .await
}

/// A run of one view that is in the ledger.
struct Run {
    context: Context,
    request: Request,
    view: Target,
    id: String,
    counters: Arc<Counters>,
    stop: CancellationToken,
}

fn cancelled() -> Error {
    Error::unavailable("the run was cancelled")
}

impl Run {
    /// Ends only when the ledger can no longer be told that this run lives.
    async fn keep_alive(&self) -> Error {
        let mut beat = tokio::time::interval(Duration::from_secs(1));
        let mut failures = 0;
        loop {
            beat.tick().await;
            match self.context.ledger.heartbeat(&self.id, self.counters.get()).await {
                Ok(false) => failures = 0,
                Ok(true) => self.stop.cancel(),
                Err(error) if failures >= LEASE.as_secs() => return error,
                Err(_) => failures += 1,
            }
        }
    }

    async fn leased(&self) -> Result<Report> {
        let lease = self.lease().await?;
        let outcome = tokio::select! {
            outcome = self.work() => outcome,
            error = self.context.ledger.keep(&lease) => Err(error),
            () = self.stop.cancelled() => Err(cancelled()),
        };
        self.context.ledger.release(&lease).await?;
        outcome
    }

    /// Waits until the view's lease is free and takes it.
    async fn lease(&self) -> Result<Lease> {
        let name = format!("materialize/{}/{}", self.request.project, self.view.name());
        let mut turn = tokio::time::interval(Duration::from_millis(500));
        loop {
            tokio::select! {
                _ = turn.tick() => {}
                () = self.stop.cancelled() => return Err(cancelled()),
            }
            if let Some(lease) = self.context.ledger.acquire(&name, &self.id).await? {
                return Ok(lease);
            }
        }
    }

    async fn work(&self) -> Result<Report> {
        let began = Instant::now();
        // Another run may have recorded an interval while this one waited for the lease.
        let catalog = self.context.registry.fresh_catalog(&self.request.project).await?;
        let (start, end) = match &self.view {
            Target::Stored(view) => {
                let view = catalog.stored_view(&view.name).map(Arc::clone)?;
                self.copy(view).await?
            }
            Target::Computed(view) => {
                let (start, end) = computed::span(view, &catalog, self.request.window);
                self.begin(start, end).await?;
                let job = computed::Job {
                    context: &self.context,
                    request: &self.request,
                    catalog: &catalog,
                    view,
                    counters: &self.counters,
                };
                job.run(start, end).await?;
                (start, end)
            }
        };
        if self.stop.is_cancelled() {
            return Err(cancelled());
        }
        Ok(Report {
            view: self.view.name().to_owned(),
            start,
            end,
            counts: self.counters.get(),
            elapsed: began.elapsed(),
        })
    }

    async fn begin(&self, start: DateTime<Utc>, end: DateTime<Utc>) -> Result<()> {
        self.context.ledger.set_window(&self.id, start, end).await?;
        if let Some(progress) = &self.request.progress {
            progress.view_started(self.view.name(), start, end);
        }
        Ok(())
    }

    /// Copies the window of a stored view and records it. Where an earlier run did not finish, that one's
    /// window is finished first.
    async fn copy(&self, view: Arc<FeatureView>) -> Result<(DateTime<Utc>, DateTime<Utc>)> {
        let Self { context, request, .. } = self;
        let (start, end) = span(context, &view, request.window)?;
        let spec = spec(
            &view,
            context.config.entity_key_version,
            request.older,
            context.online.name(),
        );
        let left = context.ledger.checkpoint(&request.project, &view.name).await?;
        let left = left
            .and_then(|text| Checkpoint::parse(&text))
            .filter(|left| left.spec == spec);
        let mut state = Checkpoint::start(spec.clone(), start, end);
        if let Window::Incremental { end } = request.window {
            state.incremental = true;
            state.since = view.materialized_until();
            if let Some(left) = left
                && left.incremental
                && left.since == state.since
                && left.end <= end
            {
                let (start, until) = (left.start, left.end);
                self.begin(start, end).await?;
                self.copy_window(&view, left).await?;
                if until < end {
                    let mut state = Checkpoint::start(spec, until - lookback(context, &view)?, end);
                    state.incremental = true;
                    state.since = Some(until);
                    self.copy_window(&view, state).await?;
                }
                return Ok((start, end));
            }
        } else if let Some(left) = left
            && !left.incremental
            && (left.start, left.end) == (start, end)
        {
            state = left;
        }
        self.begin(start, end).await?;
        if start < end || !state.incremental {
            self.copy_window(&view, state).await?;
        }
        Ok((start, end))
    }

    async fn copy_window(&self, view: &Arc<FeatureView>, state: Checkpoint) -> Result<()> {
        let Self { context, request, .. } = self;
        let project = &request.project;
        context
            .online
            .provision(project, std::slice::from_ref(view), &[])
            .await?;
        let copy = Copy {
            counters: Arc::clone(&self.counters),
            progress: request.progress.clone(),
            ..Copy::new(context, project, view, request.older)
        };
        let interval = Interval {
            start: state.start,
            end: state.end,
        };
        Arc::new(copy).run(state).await?;
        if self.stop.is_cancelled() {
            return Err(cancelled());
        }
        context
            .registry
            .record_materialization(project, &view.name, interval)
            .await?;
        context.ledger.set_checkpoint(project, &view.name, None).await
    }
}
