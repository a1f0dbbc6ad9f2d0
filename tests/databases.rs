//! What keeps its state in a SQL database, on each of the three engines. SQLite needs nothing; the
//! servers are named by `THALI_TEST_POSTGRES` and `THALI_TEST_MYSQL`: URLs, as Feast writes them, of
//! users who may create databases. Besides, every online store: `THALI_TEST_REDIS` and
//! `THALI_TEST_REDIS_CLUSTER` are connection strings. `make test` starts such servers.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

#[path = "databases/connect.rs"]
mod connect;
#[path = "databases/ledger.rs"]
mod ledger;
#[path = "databases/offline.rs"]
mod offline;
#[path = "databases/online.rs"]
mod online;
#[path = "databases/registry.rs"]
mod registry;
#[path = "databases/servers.rs"]
mod servers;
