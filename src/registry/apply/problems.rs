//! [`Problems`]: everything that is wrong with a request, told at once. Feast stops at the first.

use crate::error::{Error, Kind, Result};

/// Problems found so far.
#[derive(Debug, Default)]
pub(super) struct Problems(Vec<Error>);

impl Problems {
    pub(super) fn push(&mut self, problem: Error) {
        if !self.0.iter().any(|known| known.message() == problem.message()) {
            self.0.push(problem);
        }
    }

    /// Keeps the error of a check that failed, or its value.
    pub(super) fn keep<T>(&mut self, outcome: Result<T>) -> Option<T> {
        outcome.map_err(|problem| self.push(problem)).ok()
    }

    /// One problem is that error; several are one error that lists them, of their kind if they share it.
    pub(super) fn into_result(mut self) -> Result<()> {
        let Some(first) = self.0.first() else {
            return Ok(());
        };
        if self.0.len() == 1 {
            return self.0.pop().map_or(Ok(()), Err);
        }
        let shared = self.0.iter().all(|problem| problem.kind() == first.kind());
        let kind = if shared {
            first.kind()
        } else {
            Kind::InvalidArgument
        };
        let list: String = self
            .0
            .iter()
            .map(|problem| format!("\n  - {}", problem.one_line()))
            .collect();
        Err(Error::new(kind, format!("{} problems:{list}", self.0.len())))
    }
}
