//! Compiles the wire contract under `proto/feast` with a protobuf compiler written in Rust, so no
//! machine needs `protoc`. The descriptor set is kept for gRPC reflection and for proto3 JSON.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message;

fn main() -> Result<(), Box<dyn Error>> {
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("proto");
    println!("cargo:rerun-if-changed={}", root.display());
    let mut files = Vec::new();
    for package in ["core", "types", "serving", "registry", "storage"] {
        for entry in fs::read_dir(root.join("feast").join(package))? {
            files.push(entry?.path());
        }
    }
    files.sort();
    let descriptors = protox::compile(&files, [&root])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("feast.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        .bytes(".")
        .btree_map(".")
        .include_file("feast.rs")
        .compile_fds(descriptors)?;
    Ok(())
}
