//! PostgreSQL as an online store.

use thali::database::Engine;

use super::{conformance::conformance, home::Home};
use crate::servers::Fresh;

async fn home() -> Home {
    let fresh = Fresh::new(Engine::Postgres).await;
    Home::new(&format!("type: postgres\nsslmode: disable\n{}", fresh.keys())).within(fresh)
}

conformance!(home);
