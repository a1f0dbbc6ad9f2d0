//! [`Backoff`]: how long to wait before something is tried again. It neither tries nor gives up: what is
//! worth another try, and for how long, is known where it failed.

use std::time::Duration;

/// Pauses that grow, and differ: those that failed together do not come back together.
#[derive(Debug, Clone)]
pub(crate) struct Backoff {
    first: Duration,
    longest: Duration,
    /// What the next pause is at most.
    next: Duration,
}

impl Backoff {
    /// The first pause takes up to `first`, each further one up to twice as long, none more than `longest`.
    pub(crate) const fn new(first: Duration, longest: Duration) -> Self {
        Self {
            first,
            longest,
            next: first,
        }
    }

    /// Waits before the next try.
    pub(crate) async fn pause(&mut self) {
        tokio::time::sleep(self.next()).await;
    }

    /// Begins anew: the last try went well.
    pub(crate) fn reset(&mut self) {
        self.next = self.first;
    }

    fn next(&mut self) -> Duration {
        let most = self.next.min(self.longest);
        self.next = most * 2;
        let random = uuid::Uuid::new_v4().as_u128() % (most.as_micros() + 1);
        Duration::from_micros(u64::try_from(random).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_limit_and_differ() {
        let (first, longest) = (Duration::from_millis(10), Duration::from_millis(50));
        let most = |count: usize| {
            let mut backoff = Backoff::new(first, longest);
            let pauses: Vec<Duration> = (0..count).map(|_| backoff.next()).collect();
            pauses[count - 1]
        };
        for (count, limit) in [(1, 10), (2, 20), (3, 40), (4, 50), (40, 50)] {
            let pauses: Vec<Duration> = (0..200).map(|_| most(count)).collect();
            let limit = Duration::from_millis(limit);
            assert!(pauses.iter().all(|pause| *pause <= limit), "{count}");
            // Of 200 some lie in the upper half and some in the lower, unless one in 10^60 times.
            assert!(pauses.iter().any(|pause| *pause > limit / 2), "{count}");
            assert!(pauses.iter().any(|pause| *pause < limit / 2), "{count}");
        }
        let mut backoff = Backoff::new(first, longest);
        assert!((0..9).map(|_| backoff.next()).max() > Some(first));
        backoff.reset();
        assert!(backoff.next() <= first);
    }
}
