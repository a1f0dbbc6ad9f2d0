//! thali: a whole feature store on one plate.
//!
//! Layers, each depending only on itself and on those above it in this list:
//!
//! 1. the kernel, which knows neither stores nor servers: [`error`], [`proto`], [`model`], [`metrics`],
//!    [`telemetry`], [`database`] (connections to SQL databases, not what is in them), `aws` (credentials),
//!    [`cloud`] (object stores), `backoff` (pauses between tries), `durable` (files that outlast a crash);
//! 2. configuration: [`config`];
//! 3. the stores, contracts with their backends: [`registry::store`], [`online::store`],
//!    [`offline::store`] (with [`offline::files`] and [`offline::served_log`]), [`schedule::ledger`];
//! 4. what servers and commands share: [`transform`] (on-demand views), [`registry`] itself (the catalog
//!    of a project, [`registry::apply`], [`registry::lineage`]), and [`context`], which opens it all once
//!    per process;
//! 5. use-cases: [`definitions`] (declarative files into registry objects), [`online::plan`],
//!    [`online::serve`], [`online::feature_log`] and [`online::ingest`], [`offline::retrieve`], [`registry::datasets`], [`materialize`],
//!    [`schedule::driver`];
//! 6. surfaces over [`http`]: [`registry::grpc`], [`registry::rest`], [`online::http`], [`online::grpc`],
//!    [`offline::flight`], [`schedule::rest`], [`ui`];
//! 7. [`node`], which runs the surfaces of its roles, and [`cli`] on top.

mod aws;
mod backoff;
pub mod cli;
pub mod cloud;
pub mod config;
pub mod context;
pub mod database;
pub mod definitions;
mod durable;
pub mod error;
pub mod http;
pub mod materialize;
pub mod metrics;
pub mod model;
pub mod node;
pub mod offline;
pub mod online;
pub mod proto;
pub mod registry;
pub mod schedule;
pub mod telemetry;
mod tls;
pub mod transform;
pub mod ui;

#[cfg(test)]
extern crate self as thali;
