//! gRPC channels to other servers: what they are like whatever is asked over them, their TLS and their token.

use std::{path::PathBuf, sync::Arc, time::Duration};

use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::Interceptor,
    transport::{Channel, Endpoint, Uri},
};
use tower::service_fn;

use super::client_of_files;
use crate::error::{Error, Result};

/// How a server is trusted, and how it trusts us.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RemoteTls {
    /// Certificates to trust instead of the system's.
    pub ca: Option<PathBuf>,
    /// Our certificate and its key.
    pub client: Option<(PathBuf, PathBuf)>,
    /// The name to ask for, when it is not that of the address.
    pub authority: Option<String>,
}

/// Adds the token to every call.
#[derive(Clone)]
pub(crate) struct Token(Option<MetadataValue<Ascii>>);

impl Token {
    /// # Errors
    /// `malformed` when it has characters that cannot be sent.
    pub(crate) fn new(token: Option<&str>, malformed: impl FnOnce() -> Error) -> Result<Self> {
        let Some(token) = token else {
            return Ok(Self(None));
        };
        let mut value = MetadataValue::try_from(format!("Bearer {token}")).map_err(|_| malformed())?;
        value.set_sensitive(true);
        Ok(Self(Some(value)))
    }
}

impl Interceptor for Token {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            request.metadata_mut().insert("authorization", token.clone());
        }
        Ok(request)
    }
}

/// A channel to `host:port` that connects when it is needed, and again when it breaks.
///
/// # Errors
/// `malformed` when the address is none; `Config` when the certificates cannot be used.
pub(crate) fn channel(
    address: &str,
    tls: Option<&RemoteTls>,
    malformed: impl Fn() -> Error,
) -> Result<Channel> {
    let uri: Uri = format!("http://{address}").parse().map_err(|_| malformed())?;
    if uri.port().is_none() || uri.path() != "/" {
        return Err(malformed());
    }
    let mut endpoint = Endpoint::from(uri.clone())
        .connect_timeout(Duration::from_secs(5))
        .tcp_keepalive(Some(Duration::from_secs(20)))
        .http2_keep_alive_interval(Duration::from_secs(10))
        .keep_alive_timeout(Duration::from_secs(10))
        .keep_alive_while_idle(true);
    Ok(match tls {
        Some(tls) => {
            // tonic would make TLS of its own of `https`; what the server is told is the origin.
            let origin = format!("https://{address}").parse().map_err(|_| malformed())?;
            endpoint = endpoint.origin(origin);
            let connector = TlsStreams::new(tls, &uri)?;
            endpoint.connect_with_connector_lazy(service_fn(move |uri| connector.clone().connect(uri)))
        }
        None => endpoint.connect_lazy(),
    })
}

/// Makes connections that are TLS.
#[derive(Clone)]
struct TlsStreams {
    connector: TlsConnector,
    /// The name the server's certificate has to have.
    name: ServerName<'static>,
}

impl TlsStreams {
    fn new(tls: &RemoteTls, uri: &Uri) -> Result<Self> {
        let identity = tls.client.as_ref();
        let identity = identity.map(|(certificate, key)| (certificate.as_path(), key.as_path()));
        let mut config = client_of_files(tls.ca.as_deref(), identity)?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        let host = match &tls.authority {
            Some(authority) => authority
                .rsplit_once(':')
                .map_or(authority.as_str(), |(host, _)| host),
            None => uri.host().unwrap_or_default(),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let name = ServerName::try_from(host)
            .map_err(|error| Error::config(format!("TLS to `{uri}`: the name of the server: {error}")))?;
        Ok(Self {
            connector: TlsConnector::from(Arc::new(config)),
            name,
        })
    }

    async fn connect(self, uri: Uri) -> std::io::Result<TokioIo<TlsStream<TcpStream>>> {
        let host = uri
            .host()
            .unwrap_or_default()
            .trim_start_matches('[')
            .trim_end_matches(']');
        let stream = TcpStream::connect((host, uri.port_u16().unwrap_or(443))).await?;
        stream.set_nodelay(true)?;
        Ok(TokioIo::new(self.connector.connect(self.name, stream).await?))
    }
}
