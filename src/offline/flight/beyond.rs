//! What thali's offline server does beyond Feast's protocol, for thali as its client (`crate::offline::remote`).
//!
//! A server that does not know a parameter passes over it, and Feast's takes a put that it does not know for done.
//! So the names of what is done to writes are told by `ListActions`, and an answer or a receipt says what was done.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::offline::store::Refused;

/// A parameter of `get_historical_features`: only rows created by the entity row's time count. An answer to which
/// it was applied says so in its schema's metadata, under the same name.
pub(in crate::offline) const KNOWN_AS_OF: &str = "thali.known_as_of";

/// A parameter of `offline_write_batch` and `write_logged_features`: a UUID. Writes with the same one happen once,
/// however often they are sent within [`REMEMBERED`].
pub(in crate::offline) const ONCE: &str = "thali.once";

/// How long a write is known again.
pub(in crate::offline) const REMEMBERED: Duration = Duration::from_secs(7 * 24 * 3600);

/// A `retrieve_func` of `persist`: the uploaded rows themselves, with their [`NOTE`].
pub(in crate::offline) const GIVEN_ROWS: &str = "thali.given_rows";

/// A parameter of `persist` with [`GIVEN_ROWS`], a text to keep with the rows; and the `api` that reads the text
/// kept with those of a `data_source_name`: a table of one column, with one row or none.
pub(in crate::offline) const NOTE: &str = "thali.note";

/// Which of these a client looks for, and what they are.
pub(super) const ACTIONS: [(&str, &str); 2] = [
    (
        ONCE,
        "Rows that are written under a UUID of the client's are written once.",
    ),
    (
        GIVEN_ROWS,
        "Saves the uploaded rows at the location of a data source.",
    ),
];

/// What came of a write of rows, as the receipt of a put says it.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::offline) struct Receipt {
    pub(in crate::offline) rows: u64,
    pub(in crate::offline) refused: Vec<Refused>,
}
