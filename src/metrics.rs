//! Every metric of the process, as fields of one struct handed to whoever counts.

/// The metrics of a node.
#[derive(Debug, Default)]
pub struct Metrics {}
