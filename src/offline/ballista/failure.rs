//! An error of a task on its way to who asked: Ballista carries nothing but text, around which it puts text of
//! its own, so kind and message are written between marks.

use datafusion::error::DataFusionError;

use crate::error::{Error, Kind};

const BEGIN: &str = "thali<<";
const MIDDLE: &str = ">>:";
const END: &str = "<<thali";

/// The kinds a caller acts on in different ways; all others are ours.
const KINDS: [(&str, Kind); 5] = [
    ("invalid", Kind::InvalidArgument),
    ("config", Kind::Config),
    ("overloaded", Kind::Overloaded),
    ("unavailable", Kind::Unavailable),
    ("internal", Kind::Internal),
];

/// As an executor tells it.
#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
pub(super) fn told(error: Error) -> DataFusionError {
    let known = KINDS.iter().find(|(_, kind)| *kind == error.kind());
    let name = known.map_or("internal", |(name, _)| name);
    DataFusionError::Execution(format!("{BEGIN}{name}{MIDDLE}{}{END}", error.one_line()))
}

/// As a client hears it from the scheduler.
pub(super) fn heard(text: &str) -> Error {
    let ours = text.split_once(BEGIN).and_then(|(_, rest)| rest.split_once(END));
    if let Some((name, message)) = ours.and_then(|(ours, _)| ours.split_once(MIDDLE)) {
        let known = KINDS.iter().find(|(known, _)| *known == name);
        let kind = known.map_or(Kind::Internal, |(_, kind)| *kind);
        return Error::new(kind, message.to_owned()).context("an executor says");
    }
    let first = text.lines().next().unwrap_or_default();
    Error::unavailable(format!("the cluster ended the query: {first}"))
        .hint("the logs of scheduler and executors say more")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kind_and_message_come_through() {
        let error = Error::new(Kind::Overloaded, "too much").hint("less");
        let text = format!(
            "Job x failed: Task failed: {:?} and so on",
            told(error).to_string()
        );
        let heard = heard(&text);
        assert_eq!(heard.kind(), Kind::Overloaded);
        assert_eq!(heard.message(), "an executor says: too much (less)");
    }

    #[test]
    fn other_failures_are_the_clusters() {
        let heard = heard("Job cancelled\nat line 3");
        assert_eq!(heard.kind(), Kind::Unavailable);
        assert_eq!(heard.message(), "the cluster ended the query: Job cancelled");
    }
}
