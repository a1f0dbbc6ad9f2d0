//! The `thali` binary: process-wide choices, then the command line.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // The only provider compiled in; a second install would mean it is already there.
    let _already_installed = rustls::crypto::ring::default_provider().install_default();
    thali::cli::main()
}
