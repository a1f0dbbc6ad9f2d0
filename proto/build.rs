//! Compiles the messages under `proto/feast` (Feast's contract) and `proto/thali` (our own) with a protobuf compiler written in Rust, so no
//! machine needs `protoc`. The descriptor set is kept for gRPC reflection and for proto3 JSON.
//! It also sees to it that there is a page to embed, so no machine needs Node either.

use std::{
    env,
    error::Error,
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    time::SystemTime,
};

use prost::Message;

fn main() -> Result<(), Box<dyn Error>> {
    let package = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    page_or_notice(&package.join("ui").join("dist"))?;
    let root = package.join("proto");
    println!("cargo:rerun-if-changed={}", root.display());
    let mut files = Vec::new();
    for package in [
        "feast/core",
        "feast/types",
        "feast/serving",
        "feast/registry",
        "feast/storage",
        "thali/registry",
    ] {
        for entry in fs::read_dir(root.join(package))? {
            files.push(entry?.path());
        }
    }
    files.sort();
    let descriptors = protox::compile(&files, [&root])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("messages.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        .bytes(".")
        .btree_map(".")
        .include_file("messages.rs")
        .compile_fds(descriptors)?;
    Ok(())
}

const NOTICE: &str = r#"<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>thali: web page not built</title>
<h1>The web page is not part of this build</h1>
<p>Everything else works: the registry, the online and offline servers and the HTTP API under <code>/api/</code>.</p>
<p>To get the page, run these in the source tree and build again:</p>
<pre>npm --prefix ui ci
npm --prefix ui run build</pre>
"#;

/// Writes a notice where the built page would be, unless it is there.
fn page_or_notice(dist: &Path) -> io::Result<()> {
    let index = dist.join("index.html");
    println!("cargo:rerun-if-changed={}", index.display());
    if index.exists() {
        return Ok(());
    }
    fs::create_dir_all(dist)?;
    let mut file = fs::File::create(&index)?;
    file.write_all(NOTICE.as_bytes())?;
    // A file younger than this run would make cargo run the script, and compile the crate, once more.
    file.set_modified(SystemTime::UNIX_EPOCH)
}
