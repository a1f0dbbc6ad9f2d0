//! `thali materialize` and `materialize-incremental`: a progress bar on a terminal, one line per view
//! otherwise.

use std::{
    io::IsTerminal as _,
    process::ExitCode,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use chrono::{DateTime, Utc};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use tokio_util::sync::CancellationToken;

use super::{Global, Outcome, output, when::moment};
use crate::{
    context::Context,
    error::{Error, Result},
    materialize::{self, Progress, Report, Request, Window},
    node::Signals,
    offline::store::OfflineStore,
    online::store::OlderRow,
    registry::Catalog,
    schedule::ledger::{Counts, Trigger},
};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// First event time, for example 2024-05-01T00:00:00; UTC without an offset
    #[arg(value_parser = moment, required_unless_present = "disable_event_timestamp")]
    start: Option<DateTime<Utc>>,
    /// Last event time
    #[arg(value_parser = moment, required_unless_present = "disable_event_timestamp")]
    end: Option<DateTime<Utc>>,
    /// Feature view to materialize, repeatable; all that are served online without it
    #[arg(short, long)]
    views: Vec<String>,
    /// Materialize everything there is, whatever its event time
    #[arg(long, conflicts_with_all = ["start", "end"])]
    disable_event_timestamp: bool,
    #[command(flatten)]
    how: How,
    #[command(flatten)]
    version: Version,
}

/// What is done with the rows.
#[derive(Debug, Args)]
struct How {
    /// Only tell what would be done
    #[arg(long)]
    dry_run: bool,
    /// Let rows overwrite stored ones that are newer
    #[arg(long)]
    backfill: bool,
}

/// Feast's flag; stored versions are read, not materialized.
#[derive(Debug, Args)]
struct Version {
    #[arg(long, hide = true)]
    version: Option<String>,
}

impl Version {
    fn refuse(&self) -> Result<()> {
        match &self.version {
            None => Ok(()),
            Some(version) => Err(Error::invalid(format!("`--version {version}` is not supported"))
                .hint("only the active version of a view is materialized: leave `--version` out")),
        }
    }
}

#[derive(Debug, Args)]
pub(super) struct IncrementalArguments {
    /// Last event time; UTC without an offset
    #[arg(value_parser = moment)]
    end: DateTime<Utc>,
    /// Feature view to materialize, repeatable; all that are served online without it
    #[arg(short, long)]
    views: Vec<String>,
    #[command(flatten)]
    how: How,
    #[command(flatten)]
    version: Version,
}

pub(super) async fn run(global: &Global, arguments: Arguments) -> Outcome {
    arguments.version.refuse()?;
    let start = arguments.start.unwrap_or(DateTime::UNIX_EPOCH);
    let end = arguments.end.unwrap_or_else(Utc::now);
    let window = Window::Between { start, end };
    materialize(global, arguments.views, window, &arguments.how).await
}

pub(super) async fn run_incremental(global: &Global, arguments: IncrementalArguments) -> Outcome {
    arguments.version.refuse()?;
    let window = Window::Incremental { end: arguments.end };
    materialize(global, arguments.views, window, &arguments.how).await
}

async fn materialize(global: &Global, views: Vec<String>, window: Window, how: &How) -> Outcome {
    let (context, telemetry) = global.open("warn").await?;
    let project = context.config.project.clone();
    let mut request = Request::new(&project, views, window, Trigger::Cli);
    if how.backfill {
        request.older = OlderRow::Overwrite;
    }
    let outcome = match how.dry_run {
        true => dry_run(&context, &request).await,
        false => with_progress(&context, request).await,
    };
    telemetry.shutdown();
    let reports = outcome?;
    if reports.is_empty() {
        output::note(format_args!(
            "no feature view of project `{project}` is materialized"
        ));
    }
    Ok(ExitCode::SUCCESS)
}

/// Says what would be done, a line for each view.
async fn dry_run(context: &Context, request: &Request) -> Result<Vec<Report>> {
    let reports = materialize::dry_run(context, request).await?;
    for report in &reports {
        output::line(format_args!(
            "{}: would read {} rows and write {} keys, {} to {}",
            report.view,
            report.counts.read,
            report.counts.written,
            report.start.format("%Y-%m-%d %H:%M:%S"),
            report.end.format("%Y-%m-%d %H:%M:%S UTC"),
        ));
    }
    Ok(reports)
}

/// Materializes and shows how far it is; a signal ends it and leaves nothing half recorded.
pub(super) async fn with_progress(context: &Context, request: Request) -> Result<Vec<Report>> {
    let cancel = CancellationToken::new();
    let catalog = context.registry.catalog(&request.project).await?;
    let display = Display {
        offline: Arc::clone(&context.offline),
        catalog,
        bar: Mutex::default(),
    };
    let request = Request {
        progress: Some(Arc::new(display)),
        ..request
    };
    let mut signals = Signals::listen()?;
    let work = materialize::run(context, request, cancel.clone());
    tokio::pin!(work);
    let outcome = tokio::select! {
        outcome = &mut work => outcome,
        () = signals.next() => {
            cancel.cancel();
            work.await
        }
    };
    context.finish().await;
    outcome
}

/// Shows the view that is being copied.
struct Display {
    offline: Arc<dyn OfflineStore>,
    catalog: Arc<Catalog>,
    bar: Mutex<Option<ProgressBar>>,
}

impl Display {
    fn bar(&self) -> std::sync::MutexGuard<'_, Option<ProgressBar>> {
        // A bar is only drawn; whatever state a panic left it in will do.
        self.bar.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Display {
    /// A counter, which becomes a bar to the end when the source can say how many rows there are at most.
    fn new_bar(&self, view: &str, start: DateTime<Utc>, end: DateTime<Utc>) -> ProgressBar {
        const COUNTER: &str = "{spinner} {msg}  {human_pos} rows  {per_sec}  {elapsed}";
        const BAR: &str = "{msg}  {wide_bar}  {human_pos}/{human_len} rows  {per_sec}  ETA {eta}";
        let style = |bar: &ProgressBar, template| {
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style);
            }
        };
        let bar = ProgressBar::no_length();
        style(&bar, COUNTER);
        let source = self
            .catalog
            .stored_view(view)
            .ok()
            .and_then(|view| view.batch_source.clone());
        if let Some(source) = source {
            let (offline, bar) = (Arc::clone(&self.offline), bar.clone());
            tokio::spawn(async move {
                if let Some(total) = offline.rows_at_most(&source, start, end).await {
                    bar.set_length(total);
                    style(&bar, BAR);
                }
            });
        }
        bar
    }
}

impl Progress for Display {
    fn view_started(&self, view: &str, start: DateTime<Utc>, end: DateTime<Utc>) {
        if !std::io::stderr().is_terminal() {
            return;
        }
        let bar = self.new_bar(view, start, end).with_message(view.to_owned());
        bar.enable_steady_tick(Duration::from_millis(100));
        *self.bar() = Some(bar);
    }

    fn rows(&self, _view: &str, counts: Counts) {
        if let Some(bar) = self.bar().as_ref() {
            bar.set_position(counts.read + counts.resumed);
        }
    }

    fn view_finished(&self, report: &Report) {
        if let Some(bar) = self.bar().take() {
            bar.finish_and_clear();
        }
        output::line(format_args!("{}", summary(report)));
    }
}

/// One line about one view.
fn summary(report: &Report) -> String {
    let (seconds, counts) = (report.elapsed.as_secs_f64(), report.counts);
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    let rate = counts.read as f64 / seconds.max(0.001);
    let resumed = match counts.resumed {
        0 => String::new(),
        rows => format!("{rows} rows were stored before, "),
    };
    format!(
        "{}: {resumed}{} rows read, {} keys written in {} chunks and {seconds:.1} s ({rate:.0} rows/s), {} to {}",
        report.view,
        counts.read,
        counts.written,
        counts.chunks,
        report.start.format("%Y-%m-%d %H:%M:%S"),
        report.end.format("%Y-%m-%d %H:%M:%S UTC"),
    )
}
