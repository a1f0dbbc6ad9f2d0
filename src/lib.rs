//! thali: a whole feature store on one plate.
//!
//! Layers, each depending only on those above it in this list: the kernel ([`error`], [`proto`],
//! [`model`], [`metrics`], [`telemetry`]) without I/O; the stores (`registry::store`, `online::store`,
//! `offline::store`, `schedule::ledger`); assembly ([`config`], [`context`]); use-cases
//! (`registry::apply`, `online::serve`, `offline::retrieve`, [`transform`], [`materialize`]); surfaces
//! (gRPC, REST, Flight, UI); and [`node`] and [`cli`] on top.

pub mod cli;
pub mod config;
pub mod context;
pub mod definitions;
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
pub mod transform;
pub mod ui;
