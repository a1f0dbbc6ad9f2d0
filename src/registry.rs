//! The registry: stores, the catalog readers share, applying changes, and the registry role's servers.

pub mod apply;
pub mod catalog;
pub mod grpc;
pub mod lineage;
pub mod rest;
pub mod store;
