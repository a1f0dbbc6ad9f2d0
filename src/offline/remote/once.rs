//! Appending once and no more through an offline server, from a marker that says what was tried.
//!
//! thali's server knows a write again by its name, for a time: what got no answer is sent again. Feast's does not,
//! and cannot be asked either: where an answer got lost nothing is sent again until somebody has looked.

use std::path::Path;

use arrow::array::RecordBatch;
use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};
use uuid::Uuid;

use super::server::{Server, Unwritten};
use crate::{
    durable,
    error::{Error, Result},
    offline::{
        flight::beyond::{ONCE, REMEMBERED, Receipt},
        store::{Appended, Refused},
    },
};

/// What a marker says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Tried {
    write: Uuid,
    since: DateTime<Utc>,
    /// Whether the server knows the write again.
    is_known_again: bool,
    /// The rows that were refused, once there was an answer.
    done: Option<Vec<Refused>>,
}

impl Tried {
    /// Whether it may be sent now.
    fn may_be_sent(&self, is_known_again: bool) -> bool {
        let age = Utc::now().signed_duration_since(self.since);
        let limit = TimeDelta::from_std(REMEMBERED).unwrap_or_default();
        self.is_known_again && is_known_again && age < limit
    }
}

/// Sends rows, if they are not there yet.
///
/// # Errors
/// `Unavailable` while it cannot be told whether they are, and what the server says.
pub(super) async fn append(
    server: &Server,
    (api, mut parameters): (&str, Json),
    rows: RecordBatch,
    marker: &Path,
) -> Result<Appended> {
    let before = tried(marker).await?;
    if let Some(Tried {
        done: Some(refused), ..
    }) = before
    {
        return Ok(Appended { rows: 0, refused });
    }
    let is_known_again = server.knows(ONCE).await?;
    let is_first = before.is_none();
    let mut tried = match before {
        Some(before) if before.may_be_sent(is_known_again) => before,
        Some(_) => return Err(unknown(server, marker)),
        None => Tried {
            write: Uuid::now_v7(),
            since: Utc::now(),
            is_known_again,
            done: None,
        },
    };
    note(marker, &tried).await?;
    if is_known_again {
        parameters[ONCE] = json!(tried.write);
    }
    let count = rows.num_rows() as u64;
    match server.write(api, parameters, Some(rows), is_known_again).await {
        Ok(receipt) => {
            let receipt = match (receipt, is_known_again) {
                (Some(receipt), _) => receipt,
                (None, false) => Receipt {
                    rows: count,
                    refused: Vec::new(),
                },
                // Another server than the one that was asked: what it was told to do once, it just did.
                (None, true) => {
                    tried.is_known_again = false;
                    note(marker, &tried).await?;
                    return Err(unknown(server, marker));
                }
            };
            tried.done = Some(receipt.refused.clone());
            note(marker, &tried).await?;
            Ok(Appended {
                rows: receipt.rows,
                refused: receipt.refused,
            })
        }
        Err(Unwritten {
            error,
            may_have_happened,
        }) => {
            if is_first && !may_have_happened {
                let removed = tokio::fs::remove_file(marker).await;
                removed.map_err(|error| unusable(marker, &error))?;
            }
            Err(error)
        }
    }
}

async fn tried(marker: &Path) -> Result<Option<Tried>> {
    let text = match tokio::fs::read(marker).await {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unusable(marker, &error)),
    };
    let read = serde_json::from_slice(&text);
    read.map(Some).map_err(|error| unusable(marker, &error.into()))
}

async fn note(marker: &Path, tried: &Tried) -> Result<()> {
    let (path, text) = (marker.to_owned(), json!(tried).to_string());
    let written = tokio::task::spawn_blocking(move || durable::replace(&path, text.as_bytes())).await;
    let written =
        written.map_err(|error| Error::internal(format!("marking a write ended early: {error}")))?;
    written.map_err(|error| unusable(marker, &error))
}

fn unusable(marker: &Path, error: &std::io::Error) -> Error {
    Error::unavailable(format!("marking a write in `{}`: {error}", marker.display()))
}

fn unknown(server: &Server, marker: &Path) -> Error {
    let text = format!(
        "the answer of offline server `{}` got lost, and it cannot be told whether it has the rows of `{}`",
        server.address(),
        marker.display()
    );
    Error::unavailable(text)
        .hint("remove that file when it has not, or the one it is named after when it has")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_got_no_answer_is_sent_again_only_where_it_is_known_again() {
        let tried = |is_known_again, days| Tried {
            write: Uuid::now_v7(),
            since: Utc::now() - TimeDelta::days(days),
            is_known_again,
            done: None,
        };
        assert!(tried(true, 1).may_be_sent(true));
        assert!(!tried(true, 1).may_be_sent(false), "another server answers now");
        assert!(
            !tried(false, 1).may_be_sent(true),
            "it went to another server then"
        );
        assert!(!tried(true, 8).may_be_sent(true), "it is forgotten");
    }
}
