//! [`Problem`]: one thing that is wrong in a file, with its place and what to do; [`Problems`]: all of
//! them at once. Shared by the configuration and the definitions.

use std::{fmt, sync::Arc};

use crate::error::Error;

/// Whether a problem stops thali.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    Error,
    Warning,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub severity: Severity,
    /// The file, or the source it came from (`environment`), as the user would name it.
    pub file: Arc<str>,
    /// Counted from 1; 0 when there is no line.
    pub line: u64,
    /// The dotted path of the key; empty when there is none.
    pub key: String,
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl Problem {
    /// Something that stops thali.
    pub fn error(message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            file: Arc::from(""),
            line: 0,
            key: String::new(),
            message: message.into(),
            hint: None,
        }
    }

    /// Something that does not.
    pub fn warning(message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Warning,
            ..Self::error(message)
        }
    }

    /// Sets the line.
    #[must_use]
    pub fn at(mut self, line: u64) -> Self {
        self.line = line;
        self
    }

    /// Sets the file.
    #[must_use]
    pub fn in_file(mut self, file: &Arc<str>) -> Self {
        self.file = Arc::clone(file);
        self
    }

    /// Sets the key.
    #[must_use]
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.key = key.into();
        self
    }

    /// Says what to do.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Suggests the nearest of `known`, if one is near, else lists them when they are few.
    #[must_use]
    pub fn suggest<'a>(self, word: &str, known: impl IntoIterator<Item = &'a str>) -> Self {
        let known: Vec<&str> = known.into_iter().collect();
        match closest(word, known.iter().copied()) {
            Some(near) => self.hint(format!("did you mean `{near}`?")),
            None if !known.is_empty() && known.len() <= 12 => {
                self.hint(format!("known here: {}", known.join(", ")))
            }
            None => self,
        }
    }

    /// Whether it stops thali.
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.file.is_empty() {
            write!(f, "{}", self.file)?;
            if self.line > 0 {
                write!(f, ":{}", self.line)?;
            }
            f.write_str(": ")?;
        }
        if self.severity == Severity::Warning {
            f.write_str("warning: ")?;
        }
        if !self.key.is_empty() {
            write!(f, "`{}`: ", self.key)?;
        }
        f.write_str(&self.message)?;
        if let Some(hint) = &self.hint {
            write!(f, " ({hint})")?;
        }
        Ok(())
    }
}

/// Everything that is wrong, at least one of them an error when it is returned as one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl Problems {
    /// Adds one.
    pub fn push(&mut self, problem: Problem) {
        self.0.push(problem);
    }

    /// Whether one of them stops thali.
    pub fn has_errors(&self) -> bool {
        self.0.iter().any(Problem::is_error)
    }

    /// Gives every problem without a file this one.
    pub fn in_file(&mut self, file: &Arc<str>) {
        for problem in self.0.iter_mut().filter(|problem| problem.file.is_empty()) {
            problem.file = Arc::clone(file);
        }
    }

    /// By file and line, as a reader goes through them.
    pub fn sort(&mut self) {
        self.0.sort_by(|a, b| (&a.file, a.line).cmp(&(&b.file, b.line)));
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

impl From<Problems> for Error {
    fn from(problems: Problems) -> Self {
        Self::config(problems.to_string())
    }
}

/// The candidate with the fewest edits from `word`, if it takes no more than a third of its letters.
pub fn closest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let limit = (word.chars().count() / 3).max(1);
    let near = |candidate: &'a str| {
        let loose = edits(&word.to_lowercase(), &candidate.to_lowercase());
        // Among equally near ones, the one in the same case.
        (loose, edits(word, candidate), candidate)
    };
    let found = candidates
        .into_iter()
        .map(near)
        .filter(|(loose, ..)| *loose <= limit)
        .min();
    found.map(|(.., candidate)| candidate)
}

/// Levenshtein distance.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, left) in a.chars().enumerate() {
        let mut diagonal = i;
        let mut previous = i + 1;
        let mut next = vec![previous];
        for (j, right) in b.iter().enumerate() {
            let above = row.get(j + 1).copied().unwrap_or_default();
            let cost = diagonal + usize::from(left != *right);
            previous = cost.min(above + 1).min(previous + 1);
            diagonal = above;
            next.push(previous);
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_words_are_found_and_far_ones_are_not() {
        assert_eq!(edits("kitten", "sitting"), 3);
        assert_eq!(edits("", "abc"), 3);
        assert_eq!(
            closest("onlin_store", ["offline_store", "online_store"]),
            Some("online_store")
        );
        assert_eq!(closest("Sqlite", ["sqlite", "redis"]), Some("sqlite"));
        assert_eq!(closest("mongodb", ["sqlite", "redis"]), None);
    }

    #[test]
    fn a_problem_reads_as_one_line() {
        let problem = Problem::error("unknown key")
            .key("online_store.pth")
            .suggest("pth", ["path", "type"]);
        let problem = problem.at(3).in_file(&Arc::from("feature_store.yaml"));
        assert_eq!(
            problem.to_string(),
            "feature_store.yaml:3: `online_store.pth`: unknown key (did you mean `path`?)"
        );
    }
}
