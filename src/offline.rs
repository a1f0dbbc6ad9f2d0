//! The offline role: point-in-time joins and pulls over historical data, and the Arrow Flight server.

pub mod asof;
#[cfg(feature = "ballista")]
pub mod ballista;
pub mod dataset;
pub mod files;
pub mod flight;
pub mod hybrid;
pub mod postgres;
pub mod remote;
pub mod retrieve;
pub mod served_log;
pub mod store;

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod fixture;
