//! The scheduler role: which materializations are due, running them, and the ledger of runs.

pub mod driver;
pub mod ledger;
pub mod rest;
