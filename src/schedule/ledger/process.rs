//! A mark of this process by which others on the same machine can tell that it is gone. A mark that was
//! made elsewhere, in another container or by another user, tells nothing.

use std::{fs, os::unix::fs::MetadataExt as _};

/// Where processes are numbered alike, and whose they are.
fn place() -> Option<String> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let numbering = fs::read_link("/proc/self/ns/pid").ok()?;
    let user = fs::metadata("/proc/self").ok()?.uid();
    Some(format!("{}/{}/{user}", boot.trim(), numbering.display()))
}

/// When a process was started, in ticks since boot; `None` when it does not run.
fn started(process: &str) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The name in brackets may hold anything; the state and then 18 numbers come before the time.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    (!matches!(state, "Z" | "X")).then_some(())?;
    fields.nth(18).map(str::to_owned)
}

/// The mark of this process, where the system has one.
pub(super) fn mark() -> Option<String> {
    let id = std::process::id().to_string();
    Some(format!("{}/{id}/{}", place()?, started(&id)?))
}

/// Whether the process of a mark is known not to run any more.
pub(super) fn is_gone(mark: &str) -> bool {
    let mut parts = mark.rsplitn(3, '/');
    let (Some(time), Some(id), Some(there)) = (parts.next(), parts.next(), parts.next()) else {
        return false;
    };
    place().is_some_and(|here| here == there) && started(id).is_none_or(|found| found != time)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn only_a_process_known_to_be_gone_is() {
        let own = mark().unwrap();
        assert!(!is_gone(&own));
        let (place, _) = own.rsplit_once('/').unwrap();
        // The same number, given to another process since.
        assert!(is_gone(&format!("{place}/1")));
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let id = child.id().to_string();
        let other = format!("{}/{id}/{}", super::place().unwrap(), started(&id).unwrap());
        assert!(!is_gone(&other));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(is_gone(&other));
        assert!(!is_gone(&other.replacen(
            ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9'],
            "x",
            1
        )));
        assert!(!is_gone("") && !is_gone("holder"));
    }
}
