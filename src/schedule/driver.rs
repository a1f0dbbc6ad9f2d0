//! Finds views whose schedule is due and runs their incremental materialization.
//!
//! A schedule is `every 10m` (aligned to the clock) or a cron expression (UTC, or with a `CRON_TZ=Zone`
//! prefix). Each due moment is a slot; the ledger lets a slot be taken once, so any number of processes
//! may drive the same project. A moment missed while nothing was running is made up for once.

use std::{str::FromStr as _, sync::Arc, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use chrono_tz::Tz;
use croner::{Cron, parser::CronParser};
use tokio_cron_scheduler::{Job, JobScheduler};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::ledger::Trigger;
use crate::{
    context::Context,
    error::{Error, Result},
    materialize::{self, Request, Window},
    model::FeatureView,
};

/// The tag of a view that holds its schedule.
pub const SCHEDULE_TAG: &str = "thali.schedule";

/// When a view is due.
#[derive(Debug, Clone)]
pub enum Schedule {
    Every(TimeDelta),
    Cron { cron: Box<Cron>, zone: Tz },
}

impl Schedule {
    /// Reads `every 10m` or a cron expression of five or six fields.
    ///
    /// # Errors
    /// `Config` naming the text when it is neither.
    pub fn parse(text: &str) -> Result<Self> {
        let text = text.trim();
        if let Some(period) = text.strip_prefix("every ") {
            let period = parse_period(period)
                .ok_or_else(|| malformed(text, "write a number and s, m, h or d, such as `every 10m`"))?;
            return Ok(Self::Every(period));
        }
        let (zone, pattern) = match text
            .strip_prefix("CRON_TZ=")
            .and_then(|rest| rest.split_once(' '))
        {
            None => (Tz::UTC, text),
            Some((zone, pattern)) => (
                Tz::from_str(zone).map_err(|_| malformed(text, "the time zone is unknown"))?,
                pattern,
            ),
        };
        let cron = CronParser::new()
            .parse(pattern)
            .map_err(|error| malformed(text, &format!("write `every 10m` or a cron expression: {error}")))?;
        Ok(Self::Cron {
            cron: Box::new(cron),
            zone,
        })
    }

    /// The newest moment at or before `now` at which the schedule was due.
    pub fn latest(&self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        match self {
            Self::Every(period) => {
                let seconds = period.num_seconds();
                DateTime::from_timestamp(now.timestamp().div_euclid(seconds) * seconds, 0)
            }
            Self::Cron { cron, zone } => {
                let found = cron
                    .find_previous_occurrence(&now.with_timezone(zone), true)
                    .ok()?;
                Some(found.with_timezone(&Utc))
            }
        }
    }

    /// The first moment after `now` at which it is due.
    pub fn next(&self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        match self {
            Self::Every(period) => Some(self.latest(now)? + *period),
            Self::Cron { cron, zone } => {
                let found = cron.find_next_occurrence(&now.with_timezone(zone), false).ok()?;
                Some(found.with_timezone(&Utc))
            }
        }
    }

    /// The slot to run now, given the last slot that was taken and when this driver began to look.
    /// A new interval schedule starts at once; a new cron schedule waits for its first moment.
    pub fn due(
        &self,
        last: Option<DateTime<Utc>>,
        since: DateTime<Utc>,
        now: DateTime<Utc>,
    ) -> Option<DateTime<Utc>> {
        let slot = self.latest(now)?;
        let after = match (last, self) {
            (Some(last), _) => last,
            (None, Self::Every(_)) => return Some(slot),
            (None, Self::Cron { .. }) => since,
        };
        (slot > after).then_some(slot)
    }
}

fn malformed(text: &str, hint: &str) -> Error {
    Error::config(format!("`{text}` is no schedule")).hint(hint.to_owned())
}

fn parse_period(text: &str) -> Option<TimeDelta> {
    let text = text.trim();
    let unit = text.chars().last()?;
    let number: i64 = text.strip_suffix(unit)?.trim().parse().ok()?;
    let period = match unit {
        's' => TimeDelta::try_seconds(number),
        'm' => TimeDelta::try_minutes(number),
        'h' => TimeDelta::try_hours(number),
        'd' => TimeDelta::try_days(number),
        _ => None,
    }?;
    (period > TimeDelta::zero()).then_some(period)
}

/// The schedule text of a view: thali's configuration wins over the view's tag.
pub fn schedule_text<'a>(context: &'a Context, view: &'a FeatureView) -> Option<&'a str> {
    let configured = context.config.thali.schedules.get(&view.name);
    configured
        .or_else(|| view.tags.get(SCHEDULE_TAG))
        .map(String::as_str)
}

/// Drives the schedules of the configured project until cancelled; runs in progress are cancelled then
/// and waited for.
///
/// # Errors
/// `Internal` when the ticker cannot be started.
pub async fn drive(context: Context, cancel: CancellationToken) -> Result<()> {
    let since = Utc::now();
    let runs = TaskTracker::new();
    let driver = Arc::new(Driver {
        context,
        since,
        runs: runs.clone(),
        cancel: cancel.clone(),
    });
    let mut ticker = JobScheduler::new().await.map_err(|error| cannot_tick(&error))?;
    let job = Job::new_repeated_async(Duration::from_secs(1), move |_, _| {
        let driver = Arc::clone(&driver);
        Box::pin(async move { driver.look().await })
    })
    .map_err(|error| cannot_tick(&error))?;
    ticker.add(job).await.map_err(|error| cannot_tick(&error))?;
    ticker.start().await.map_err(|error| cannot_tick(&error))?;
    cancel.cancelled().await;
    if let Err(error) = ticker.shutdown().await {
        tracing::warn!(%error, "the scheduler's ticker did not stop");
    }
    runs.close();
    runs.wait().await;
    Ok(())
}

fn cannot_tick(error: &tokio_cron_scheduler::JobSchedulerError) -> Error {
    Error::internal(format!("the scheduler cannot tick: {error}"))
}

struct Driver {
    context: Context,
    since: DateTime<Utc>,
    runs: TaskTracker,
    cancel: CancellationToken,
}

impl Driver {
    /// Starts what is due; anything that goes wrong is logged and tried again at the next look.
    async fn look(&self) {
        if self.cancel.is_cancelled() {
            return;
        }
        let catalog = match self.context.registry.catalog(&self.context.config.project).await {
            Ok(catalog) => catalog,
            Err(error) => return tracing::warn!(%error, "schedules cannot be looked at"),
        };
        for view in catalog.stored_views() {
            if let Err(error) = self.look_at(view).await {
                tracing::warn!(view = view.name, %error, "the view's schedule cannot be followed");
            }
        }
    }

    async fn look_at(&self, view: &Arc<FeatureView>) -> Result<()> {
        let Some(text) = schedule_text(&self.context, view) else {
            return Ok(());
        };
        if !view.online || !view.enabled {
            return Ok(());
        }
        let schedule = Schedule::parse(text)?;
        let project = &self.context.config.project;
        let last = self.context.ledger.last_scheduled(project, &view.name).await?;
        let now = Utc::now();
        let Some(slot) = schedule.due(last.and_then(|run| run.slot), self.since, now) else {
            return Ok(());
        };
        let window = Window::Incremental { end: now };
        let mut request = Request::new(project, vec![view.name.clone()], window, Trigger::Schedule);
        request.slot = Some(slot);
        let context = self.context.clone();
        let cancel = self.cancel.clone();
        self.runs.spawn(async move {
            if let Err(error) = materialize::run(&context, request, cancel).await {
                tracing::warn!(%error, "a scheduled materialization failed");
            }
        });
        Ok(())
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    #[test]
    fn intervals_are_aligned_and_start_at_once() {
        let schedule = Schedule::parse("every 10m").unwrap();
        let now = at("2026-03-01T10:14:59Z");
        let slot = schedule.due(None, now, now).unwrap();
        assert_eq!(slot, at("2026-03-01T10:10:00Z"));
        assert_eq!(schedule.due(Some(slot), now, now), None);
        assert_eq!(
            schedule.due(Some(slot), now, at("2026-03-01T10:20:00Z")),
            Some(at("2026-03-01T10:20:00Z"))
        );
        assert_eq!(schedule.next(now), Some(at("2026-03-01T10:20:00Z")));
    }

    #[test]
    fn cron_waits_for_its_first_moment_and_makes_up_for_a_missed_one() {
        let schedule = Schedule::parse("0 3 * * *").unwrap();
        let since = at("2026-03-01T10:00:00Z");
        assert_eq!(schedule.due(None, since, at("2026-03-01T23:00:00Z")), None);
        assert_eq!(
            schedule.due(None, since, at("2026-03-02T03:00:01Z")),
            Some(at("2026-03-02T03:00:00Z"))
        );
        let missed = schedule.due(Some(at("2026-02-20T03:00:00Z")), since, since);
        assert_eq!(missed, Some(at("2026-03-01T03:00:00Z")));
    }

    #[test]
    fn cron_follows_daylight_saving_of_its_zone() {
        let schedule = Schedule::parse("CRON_TZ=America/New_York 0 3 * * *").unwrap();
        assert_eq!(
            schedule.next(at("2026-03-07T12:00:00Z")),
            Some(at("2026-03-08T07:00:00Z"))
        );
        assert_eq!(
            schedule.next(at("2026-03-06T12:00:00Z")),
            Some(at("2026-03-07T08:00:00Z"))
        );
    }

    #[test]
    fn nonsense_is_refused() {
        for text in [
            "",
            "every",
            "every 0m",
            "every x",
            "61 * * * *",
            "CRON_TZ=Mars/X 0 3 * * *",
        ] {
            assert!(Schedule::parse(text).is_err(), "{text}");
        }
    }
}
