//! TLS towards other servers: whom to trust and how to be known, as one configuration for gRPC and HTTP.
//!
//! Feast's clients trust a server's own certificate when it is the one they are configured with, also the
//! kind that `openssl req -x509` makes, which says it is an authority. rustls refuses those as a server's;
//! here they are accepted when the very same certificate is trusted.

use std::{path::Path, sync::Arc};

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_name,
    },
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject as _},
    server::ParsedCertificate,
};

use crate::error::{Error, Result};

/// A client that trusts the certificates of the file `ca`, or the system's, and that shows `identity`, the
/// files of its certificate and key, if it has one.
///
/// # Errors
/// `Config` naming the file that cannot be used.
pub(crate) fn client_config(ca: Option<&Path>, identity: Option<(&Path, &Path)>) -> Result<ClientConfig> {
    let own = match ca {
        Some(path) => certificates(path)?,
        None => rustls_native_certs::load_native_certs().certs,
    };
    let mut roots = RootCertStore::empty();
    let (trusted, _) = roots.add_parsable_certificates(own.iter().cloned());
    if trusted == 0 {
        return Err(match ca {
            Some(path) => Error::config(format!("file `{}` holds no certificate", path.display())),
            None => Error::config("the system trusts no certificates")
                .hint("install its CA certificates, or configure `cert`"),
        });
    }
    let unusable = |error: &dyn std::fmt::Display| Error::config(format!("TLS cannot be used: {error}"));
    let chain = WebPkiServerVerifier::builder(Arc::new(roots))
        .build()
        .map_err(|error| unusable(&error))?;
    let own = if ca.is_some() { own } else { Vec::new() };
    let builder = ClientConfig::builder()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Verifier { chain, own }));
    let Some((certificate, key)) = identity else {
        return Ok(builder.with_no_client_auth());
    };
    let chain = certificates(certificate)?;
    let private = PrivateKeyDer::from_pem_file(key)
        .map_err(|error| Error::config(format!("key file `{}`: {error}", key.display())))?;
    builder
        .with_client_auth_cert(chain, private)
        .map_err(|error| unusable(&error))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let broken = |error| Error::config(format!("certificate file `{}`: {error}", path.display()));
    CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(broken)
}

/// What webpki says, and certificates that are trusted themselves.
#[derive(Debug)]
struct Verifier {
    chain: Arc<WebPkiServerVerifier>,
    own: Vec<CertificateDer<'static>>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verdict =
            self.chain
                .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        match verdict {
            // webpki looks at the times first: one that has expired is not among these.
            Err(rustls::Error::InvalidCertificate(CertificateError::Other(_))) => {
                if !self.own.iter().any(|own| own == end_entity) {
                    let told = "its certificate is an authority's own and is not the one of `cert`";
                    return Err(rustls::Error::General(told.to_owned()));
                }
                verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
                Ok(ServerCertVerified::assertion())
            }
            verdict => verdict,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}
