//! The online role: reading and writing feature values by entity key.

pub mod grpc;
pub mod http;
pub mod ingest;
pub mod json;
pub mod plan;
pub mod serve;
pub mod store;

#[cfg(test)]
mod fixture;
