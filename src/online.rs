//! The online role: reading and writing feature values by entity key.

pub mod feature_log;
pub mod grpc;
pub mod http;
pub mod ingest;
pub mod json;
pub mod limits;
pub mod message;
pub mod plan;
pub mod precompute;
pub mod rows;
pub mod search;
pub mod serve;
pub mod store;
pub mod table;

#[cfg(test)]
mod fixture;
