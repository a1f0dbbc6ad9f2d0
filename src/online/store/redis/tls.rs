//! TLS to Redis, by redis-py's options.

use std::{fs, sync::Arc};

use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::WebPkiServerVerifier,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject as _},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::error::{Error, Result};

/// What of a server's certificate is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Check {
    Nothing,
    /// Who signed it.
    Issuer,
    /// Who signed it, and for which name.
    IssuerAndName,
}

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
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::internal(format!("TLS cannot be set up: {error}")))?;
    let builder = match check {
        Check::Nothing => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Lenient {
                provider,
                roots: None,
            })),
        Check::Issuer => {
            let roots =
                WebPkiServerVerifier::builder_with_provider(Arc::new(roots(files)?), Arc::clone(&provider))
                    .build()
                    .map_err(|error| {
                        Error::config(format!(
                            "the authorities of `ssl_ca_certs` cannot be used: {error}"
                        ))
                    })?;
            builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(Lenient {
                    provider,
                    roots: Some(roots),
                }))
        }
        Check::IssuerAndName => builder.with_root_certificates(roots(files)?),
    };
    let config = match (&files.certificate, &files.key) {
        (None, None) => builder.with_no_client_auth(),
        (Some(certificate), key) => {
            // One file may hold both.
            let key_file = key.as_ref().unwrap_or(certificate);
            let chain = certificates(&read("ssl_certfile", certificate)?)
                .ok_or_else(|| damaged("ssl_certfile", certificate))?;
            let key = PrivateKeyDer::from_pem_slice(&read("ssl_keyfile", key_file)?)
                .map_err(|_| damaged("ssl_keyfile", key_file))?;
            builder.with_client_auth_cert(chain, key).map_err(|error| {
                Error::config(format!("`ssl_certfile` and `ssl_keyfile` do not fit: {error}"))
            })?
        }
        (None, Some(_)) => {
            return Err(Error::config("`ssl_keyfile` is given without `ssl_certfile`"));
        }
    };
    Ok(Arc::new(config))
}

fn roots(files: &Files) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
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
    if files.authorities.is_none() && files.authorities_file.is_none() {
        // What of the system's authorities cannot be read is left out; a handshake says if one is missed.
        given = rustls_native_certs::load_native_certs().certs;
    }
    roots.add_parsable_certificates(given);
    Ok(roots)
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

/// Checks less than is usual, because that was asked for.
#[derive(Debug)]
struct Lenient {
    provider: Arc<CryptoProvider>,
    /// Checks who signed a certificate, if that counts.
    roots: Option<Arc<WebPkiServerVerifier>>,
}

impl ServerCertVerifier for Lenient {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        use rustls::{CertificateError as Wrong, Error::InvalidCertificate};
        let Some(roots) = &self.roots else {
            return Ok(ServerCertVerified::assertion());
        };
        match roots.verify_server_cert(certificate, chain, name, response, now) {
            Err(InvalidCertificate(Wrong::NotValidForName | Wrong::NotValidForNameContext { .. })) => {
                Ok(ServerCertVerified::assertion())
            }
            checked => checked,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
