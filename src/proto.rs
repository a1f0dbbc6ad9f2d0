//! The generated wire contract (`proto/`) and its descriptors; nothing else.

#![allow(
    clippy::all,
    clippy::pedantic,
    missing_docs,
    rustdoc::all,
    unreachable_pub,
    unused_qualifications
)]

include!(concat!(env!("OUT_DIR"), "/messages.rs"));

/// The encoded `FileDescriptorSet` of every file under `proto/`.
pub const DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/messages.bin"));
