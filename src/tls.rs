//! TLS towards other servers: whom to trust and how to be known, as one configuration for all protocols.
//!
//! Feast's clients trust a server's own certificate when it is the one they are configured with, also the
//! kind that `openssl req -x509` makes, which says it is an authority. rustls refuses those as a server's;
//! here they are accepted when the very same certificate is trusted.

pub(crate) mod grpc;

use std::{path::Path, sync::Arc};

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_name,
    },
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject as _},
    server::ParsedCertificate,
};

use crate::error::{Error, Result};

/// What of a server's certificate is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Check {
    Nothing,
    /// Who signed it.
    Issuer,
    /// Who signed it, and for which name.
    IssuerAndName,
}

/// A certificate with those that vouch for it, and its key.
pub(crate) type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// A client that trusts the certificates of the file `ca`, or the system's, and that shows `identity`, the
/// files of its certificate and key, if it has one.
///
/// # Errors
/// `Config` naming the file that cannot be used.
pub(crate) fn client_of_files(ca: Option<&Path>, identity: Option<(&Path, &Path)>) -> Result<ClientConfig> {
    let identity = identity.map(|(certificate, key)| {
        let private = PrivateKeyDer::from_pem_file(key)
            .map_err(|error| Error::config(format!("key file `{}`: {error}", key.display())))?;
        Ok::<_, Error>((certificates(certificate)?, private))
    });
    client(
        ca.map(certificates).transpose()?,
        Check::IssuerAndName,
        identity.transpose()?,
    )
}

/// A client that trusts these certificates, or the system's.
///
/// # Errors
/// `Config` when they, or the identity, cannot be used.
pub(crate) fn client(
    trusted: Option<Vec<CertificateDer<'static>>>,
    check: Check,
    identity: Option<Identity>,
) -> Result<ClientConfig> {
    let unusable = |error: &dyn std::fmt::Display| Error::config(format!("TLS cannot be used: {error}"));
    let provider = Arc::new(ring::default_provider());
    let chain = match check {
        Check::Nothing => None,
        Check::Issuer | Check::IssuerAndName => {
            let roots = Arc::new(roots(trusted.as_deref())?);
            let chain = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider));
            Some(chain.build().map_err(|error| unusable(&error))?)
        }
    };
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| unusable(&error))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Verifier {
            provider,
            chain,
            names: check == Check::IssuerAndName,
            own: trusted.unwrap_or_default(),
        }));
    match identity {
        None => Ok(builder.with_no_client_auth()),
        Some((certificates, key)) => builder
            .with_client_auth_cert(certificates, key)
            .map_err(|error| unusable(&error)),
    }
}

fn roots(trusted: Option<&[CertificateDer<'static>]>) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    let (known, _) = match trusted {
        Some(trusted) => roots.add_parsable_certificates(trusted.iter().cloned()),
        // What of the system's cannot be read is left out; a handshake says if one is missed.
        None => roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs),
    };
    if known > 0 {
        return Ok(roots);
    }
    Err(match trusted {
        Some(_) => Error::config("the file of certificates to trust holds none"),
        None => Error::config("the system trusts no certificates")
            .hint("install its CA certificates, or configure which to trust"),
    })
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let broken = |error| Error::config(format!("certificate file `{}`: {error}", path.display()));
    CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(broken)
}

/// What webpki says, certificates that are trusted themselves, and less where less was asked for.
#[derive(Debug)]
struct Verifier {
    provider: Arc<CryptoProvider>,
    /// `None` when anybody is trusted.
    chain: Option<Arc<WebPkiServerVerifier>>,
    /// Whether the name counts.
    names: bool,
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
        use rustls::Error::InvalidCertificate;
        let Some(chain) = &self.chain else {
            return Ok(ServerCertVerified::assertion());
        };
        match chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            Err(InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if !self.names => Ok(ServerCertVerified::assertion()),
            // webpki looks at the times first: one that has expired is not among these.
            Err(InvalidCertificate(CertificateError::Other(_))) => {
                if !self.own.iter().any(|own| own == end_entity) {
                    let told = "its certificate is an authority's own and is not the one that is trusted";
                    return Err(rustls::Error::General(told.to_owned()));
                }
                if self.names {
                    verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
                }
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
        verify_tls12_signature(
            message,
            cert,
            dss,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            cert,
            dss,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
