//! [`Limits`]: what the online role takes on. A request over them is refused at once, so that those
//! within are answered in time.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

use crate::{
    config::OnlineConfig,
    error::{Error, Kind, Result},
    metrics::Metrics,
};

/// The limits of one process, over all its surfaces.
#[derive(Debug, Default)]
pub struct Limits {
    pub config: OnlineConfig,
    metrics: Arc<Metrics>,
    in_flight: AtomicUsize,
    /// Writes that nobody may be waiting for any more.
    writes: TaskTracker,
}

/// A place among the requests being answered, given back when dropped.
#[derive(Debug)]
pub struct Permit(Arc<Limits>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Limits {
    /// Limits as they are configured; what is turned away is counted, and writes are among the tasks that
    /// the process ends after.
    pub fn new(config: OnlineConfig, metrics: Arc<Metrics>, writes: TaskTracker) -> Self {
        Self {
            config,
            metrics,
            in_flight: AtomicUsize::new(0),
            writes,
        }
    }

    /// A place for one more request.
    ///
    /// # Errors
    /// `Overloaded` when there is none.
    pub fn admit(self: &Arc<Self>) -> Result<Permit> {
        let before = self.in_flight.fetch_add(1, Ordering::Relaxed);
        let permit = Permit(Arc::clone(self));
        if before < self.config.max_in_flight {
            return Ok(permit);
        }
        self.metrics.shed.inc();
        Err(Error::new(
            Kind::Overloaded,
            format!(
                "{} requests are being answered, which is the limit",
                self.config.max_in_flight
            ),
        )
        .hint("try again in a moment; the limit is `thali.online.max_in_flight`"))
    }

    /// Runs `work` for as long as an answer may take.
    ///
    /// # Errors
    /// `DeadlineExceeded` when it takes longer, which ends it.
    pub async fn in_time<T>(&self, work: impl Future<Output = T>) -> Result<T> {
        let Some(timeout) = self.config.request_timeout else {
            return Ok(work.await);
        };
        tokio::time::timeout(timeout, work).await.map_err(|_| {
            Error::new(
                Kind::DeadlineExceeded,
                format!("no answer within {} s", timeout.as_secs_f64()),
            )
            .hint("the limit is `thali.online.request_timeout_seconds`")
        })
    }

    /// Runs a write to its end, whoever stops waiting for it: nobody's hanging up leaves half of it behind.
    /// It keeps its place for as long as it takes.
    ///
    /// # Errors
    /// `DeadlineExceeded` when the answer is late, which says that the write goes on; `Internal` when it
    /// panicked.
    pub async fn to_the_end<T: Send + 'static>(
        &self,
        permit: Permit,
        write: impl Future<Output = T> + Send + 'static,
    ) -> Result<T> {
        let write = async move {
            let _permit = permit;
            write.await
        };
        let task = self.writes.spawn(write.in_current_span());
        let ended = self.in_time(task).await.map_err(|late| {
            let message = format!("{}: the rows are still being written", late.message());
            Error::new(late.kind(), message)
                .hint("sent again, rows for the online store change nothing, others may be there twice")
        })?;
        ended.map_err(|error| Error::internal("a write ended unexpectedly").source_error(error))
    }

    /// Refuses more entity rows than one request may have.
    ///
    /// # Errors
    /// `InvalidArgument` with both numbers.
    pub fn check_rows(&self, rows: usize) -> Result<()> {
        let most = self.config.max_rows;
        if rows <= most {
            return Ok(());
        }
        Err(
            Error::invalid(format!("{rows} rows in one request are more than {most}"))
                .hint("send several requests; the limit is `thali.online.max_rows`"),
        )
    }

    /// The refusal of a body that is too long.
    pub fn too_long(&self) -> Error {
        Error::new(
            Kind::TooLarge,
            format!("the body has more than {} bytes", self.config.max_body),
        )
        .hint("send several requests; the limit is `thali.online.max_body`")
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn places_come_back() {
        let config = OnlineConfig {
            max_in_flight: 2,
            ..OnlineConfig::default()
        };
        let limits = Arc::new(Limits::new(config, Arc::default(), TaskTracker::new()));
        let (first, _second) = (limits.admit().unwrap(), limits.admit().unwrap());
        assert_eq!(limits.admit().unwrap_err().kind(), Kind::Overloaded);
        assert_eq!(limits.metrics.shed.get(), 1);
        drop(first);
        assert!(limits.admit().is_ok());
    }

    #[tokio::test]
    async fn what_takes_too_long_is_ended() {
        let config = OnlineConfig {
            request_timeout: Some(Duration::from_millis(1)),
            ..OnlineConfig::default()
        };
        let limits = Limits::new(config, Arc::default(), TaskTracker::new());
        let error = limits.in_time(std::future::pending::<()>()).await.unwrap_err();
        assert_eq!(error.kind(), Kind::DeadlineExceeded);
        assert_eq!(limits.in_time(async { 7 }).await.unwrap(), 7);
    }

    #[tokio::test]
    async fn a_write_that_is_late_goes_on() {
        let config = OnlineConfig {
            request_timeout: Some(Duration::from_millis(1)),
            max_in_flight: 1,
            ..OnlineConfig::default()
        };
        let limits = Arc::new(Limits::new(config, Arc::default(), TaskTracker::new()));
        let (go, gate) = tokio::sync::oneshot::channel::<()>();
        let (written, done) = tokio::sync::oneshot::channel();
        let write = async move {
            gate.await.unwrap();
            written.send(()).unwrap();
        };
        let late = limits.to_the_end(limits.admit().unwrap(), write).await;
        let late = late.unwrap_err();
        assert_eq!(late.kind(), Kind::DeadlineExceeded);
        assert!(late.message().contains("still being written"), "{late}");
        assert!(
            limits.admit().is_err(),
            "it has its place for as long as it takes"
        );
        go.send(()).unwrap();
        done.await.unwrap();
        limits.writes.close();
        limits.writes.wait().await;
        assert!(limits.admit().is_ok());
    }
}
