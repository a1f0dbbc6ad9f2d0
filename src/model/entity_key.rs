//! Entity key bytes.

/// The serialization version of entity keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    V2,
    V3,
}
