//! TLS to Redis, by redis-py's options.

use std::{fs, sync::Arc};

use rustls::{
    ClientConfig,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{
    error::{Error, Result},
    tls::{self, Check, Identity},
};

/// Where certificates are.
#[derive(Debug, Default)]
pub(super) struct Files {
    /// PEM text of further authorities; the system's without any.
    pub(super) authorities: Option<String>,
    pub(super) authorities_file: Option<String>,
    pub(super) certificate: Option<String>,
    pub(super) key: Option<String>,
}

/// The configuration of a client.
///
/// # Errors
/// `Config` naming the file that cannot be used.
pub(super) fn config(files: &Files, check: Check) -> Result<Arc<ClientConfig>> {
    Ok(Arc::new(tls::client(trusted(files)?, check, identity(files)?)?))
}

fn identity(files: &Files) -> Result<Option<Identity>> {
    match (&files.certificate, &files.key) {
        (None, None) => Ok(None),
        (Some(certificate), key) => {
            // One file may hold both.
            let key_file = key.as_ref().unwrap_or(certificate);
            let chain = certificates(&read("ssl_certfile", certificate)?)
                .ok_or_else(|| damaged("ssl_certfile", certificate))?;
            let key = PrivateKeyDer::from_pem_slice(&read("ssl_keyfile", key_file)?)
                .map_err(|_| damaged("ssl_keyfile", key_file))?;
            Ok(Some((chain, key)))
        }
        (None, Some(_)) => Err(Error::config("`ssl_keyfile` is given without `ssl_certfile`")),
    }
}

fn trusted(files: &Files) -> Result<Option<Vec<CertificateDer<'static>>>> {
    let mut given = Vec::new();
    if let Some(text) = &files.authorities {
        given.extend(
            certificates(text.as_bytes())
                .ok_or_else(|| Error::config("`ssl_ca_data` holds no certificate"))?,
        );
    }
    if let Some(file) = &files.authorities_file {
        let text = read("ssl_ca_certs", file)?;
        given.extend(certificates(&text).ok_or_else(|| damaged("ssl_ca_certs", file))?);
    }
    Ok((!given.is_empty()).then_some(given))
}

fn read(option: &str, file: &str) -> Result<Vec<u8>> {
    fs::read(file).map_err(|error| {
        Error::config(format!("`{file}` of `{option}` cannot be read: {error}"))
            .hint("paths in `online_store.connection_string` start from the folder thali is started in")
    })
}

fn certificates(text: &[u8]) -> Option<Vec<CertificateDer<'static>>> {
    let found: Vec<_> = CertificateDer::pem_slice_iter(text)
        .collect::<Result<_, _>>()
        .ok()?;
    (!found.is_empty()).then_some(found)
}

fn damaged(option: &str, file: &str) -> Error {
    Error::config(format!(
        "`{file}` of `{option}` holds nothing of that kind in PEM"
    ))
}

/// Encrypts a connection.
///
/// # Errors
/// `Unavailable` with what the handshake failed of.
pub(super) async fn wrap(
    config: Arc<ClientConfig>,
    host: &str,
    stream: TcpStream,
) -> Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from(host.to_owned())
        .map_err(|_| Error::config(format!("`{host}` is no name that a certificate can have")))?;
    TlsConnector::from(config)
        .connect(name, stream)
        .await
        .map_err(|error| {
            Error::unavailable(format!("TLS handshake failed: {error}"))
                .hint("check `ssl`, `ssl_ca_certs`, `ssl_certfile` and `ssl_keyfile` in `online_store.connection_string`")
        })
}
