//! A mark of this process by which others on the same machine can tell that it is gone. A mark that was
//! made elsewhere, in another container or by another user, tells nothing.

use std::{
    fs,
    io::{self, ErrorKind},
    os::unix::fs::MetadataExt as _,
};

/// Where processes are numbered alike, and whose they are.
fn place() -> Option<String> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let numbering = fs::read_link("/proc/self/ns/pid").ok()?;
    let user = fs::metadata("/proc/self").ok()?.uid();
    Some(format!("{}/{}/{user}", boot.trim(), numbering.display()))
}

/// What "No such process" is called, which the system says of one that ends while it is looked at.
const ESRCH: i32 = 3;

/// When a process was started, in ticks since boot; `None` when it does not run.
///
/// # Errors
/// When that cannot be told, as where this process may open no more files.
fn started(process: &str) -> io::Result<Option<String>> {
    let stat = match fs::read_to_string(format!("/proc/{process}/stat")) {
        Ok(stat) => stat,
        Err(error) if error.kind() == ErrorKind::NotFound || error.raw_os_error() == Some(ESRCH) => {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    // The name in brackets may hold anything; the state and then 18 numbers come before the time.
    let mut fields = stat
        .rsplit_once(')')
        .map_or("", |(_, rest)| rest)
        .split_whitespace();
    match (fields.next(), fields.nth(18)) {
        (Some("Z" | "X"), _) => Ok(None),
        (Some(_), Some(time)) => Ok(Some(time.to_owned())),
        _ => Err(ErrorKind::InvalidData.into()),
    }
}

/// The mark of this process, where the system has one.
pub(super) fn mark() -> Option<String> {
    let id = std::process::id().to_string();
    Some(format!("{}/{id}/{}", place()?, started(&id).ok()??))
}

/// Whether the process of a mark is known not to run any more.
pub(super) fn is_gone(mark: &str) -> bool {
    let mut parts = mark.rsplitn(3, '/');
    let (Some(time), Some(id), Some(there)) = (parts.next(), parts.next(), parts.next()) else {
        return false;
    };
    place().is_some_and(|here| here == there)
        && started(id).is_ok_and(|found| found.is_none_or(|found| found != time))
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
        let other = format!(
            "{}/{id}/{}",
            super::place().unwrap(),
            started(&id).unwrap().unwrap()
        );
        assert!(!is_gone(&other));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(is_gone(&other));
        assert!(!is_gone(&other.replacen(
            ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9'],
            "x",
            1
        )));
        // What cannot be read tells nothing: here a file where a process has its folder.
        assert!(!is_gone(&format!("{}/cpuinfo/1", super::place().unwrap())));
        assert!(!is_gone("") && !is_gone("holder"));
    }
}
