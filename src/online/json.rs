//! JSON of the online surfaces: request bodies in, checked as Feast's server checks them, and answers
//! written straight into one buffer.

pub mod body;
mod write;

pub use write::{write_message, write_response};
