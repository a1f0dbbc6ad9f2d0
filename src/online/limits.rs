//! [`Limits`]: what the online role takes on. A request over them is refused at once, so that those
//! within are answered in time.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

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
}

/// A place among the requests being answered, given back when dropped.
#[derive(Debug)]
pub struct Permit<'a>(&'a Limits);

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Limits {
    /// Limits as they are configured; what is turned away is counted.
    pub fn new(config: OnlineConfig, metrics: Arc<Metrics>) -> Self {
        Self {
            config,
            metrics,
            in_flight: AtomicUsize::new(0),
        }
    }

    /// A place for one more request.
    ///
    /// # Errors
    /// `Overloaded` when there is none.
    pub fn admit(&self) -> Result<Permit<'_>> {
        let before = self.in_flight.fetch_add(1, Ordering::Relaxed);
        let permit = Permit(self);
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
        let limits = Limits::new(config, Arc::default());
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
        let limits = Limits::new(config, Arc::default());
        let error = limits.in_time(std::future::pending::<()>()).await.unwrap_err();
        assert_eq!(error.kind(), Kind::DeadlineExceeded);
        assert_eq!(limits.in_time(async { 7 }).await.unwrap(), 7);
    }
}
