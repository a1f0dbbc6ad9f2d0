//! SQLite as an online store.

use super::{conformance::conformance, home::Home, searches::searches};

/// Times are whole seconds in Feast's layout.
async fn home() -> Home {
    Home::new("type: sqlite\npath: data/online.db").with_precision(1_000_000)
}

async fn home_of_vectors() -> Home {
    Home::new("type: sqlite\nvector_enabled: true\ntext_search_enabled: true").with_precision(1_000_000)
}

conformance!(home);
searches!(home_of_vectors);
