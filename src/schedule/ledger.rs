//! The ledger of runs: what was started, how far it came, how it ended; and the leases that keep two
//! processes from running the same thing.

/// An opened ledger.
#[derive(Debug)]
pub struct Ledger {}
