//! How much of the machine the process uses, as psutil tells it: what Feast's resource metrics show.

use std::{path::Path, time::Duration};

use tokio_util::sync::CancellationToken;

use crate::{
    error::Result,
    metrics::{Metrics, ProcessLabel},
};

/// How often it is looked at, as in Feast.
const PERIOD: Duration = Duration::from_secs(5);

/// Ticks in a second of Linux's process times, on every machine it runs on today.
const TICKS: f64 = 100.0;

/// Keeps the gauges; never ends by itself. Does nothing where there is no `/proc`.
pub(super) async fn measure(metrics: &Metrics, stop: CancellationToken) -> Result<()> {
    let label = ProcessLabel {
        pid: std::process::id(),
    };
    let mut turn = tokio::time::interval(PERIOD);
    let mut before = None;
    loop {
        tokio::select! {
            _ = turn.tick() => {}
            () = stop.cancelled() => return Ok(()),
        }
        let now = tokio::time::Instant::now();
        let Some(ticks) = cpu_ticks() else {
            continue;
        };
        if let Some((then, earlier)) = before {
            let passed = now.duration_since(then).as_secs_f64();
            let used = (ticks - earlier) / TICKS / passed * 100.0;
            metrics.cpu.get_or_create(&label).set(used);
        }
        before = Some((now, ticks));
        if let Some(share) = memory_share() {
            metrics.memory.get_or_create(&label).set(share);
        }
    }
}

/// User and system time of the process so far.
fn cpu_ticks() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The second field is the command in parentheses, which may hold anything.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

fn memory_share() -> Option<f64> {
    let held = kilobytes(Path::new("/proc/self/status"), "VmRSS:")?;
    let all = kilobytes(Path::new("/proc/meminfo"), "MemTotal:")?;
    Some(held / all * 100.0)
}

fn kilobytes(file: &Path, name: &str) -> Option<f64> {
    let text = std::fs::read_to_string(file).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn the_process_uses_something() {
        assert!(cpu_ticks().unwrap() >= 0.0);
        let share = memory_share().unwrap();
        assert!(share > 0.0 && share < 100.0, "{share}");
    }
}
