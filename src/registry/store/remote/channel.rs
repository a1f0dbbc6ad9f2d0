//! The connection to a registry server: address, certificates, token, and its errors in words.

use std::{
    error::Error as _,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Channel, Endpoint, Uri},
};

use super::kind_of;
use tower::service_fn;

use crate::{
    error::{Error, Result, reason},
    proto::thali::registry::registry_sync_client::RegistrySyncClient,
    registry::grpc::BytesCodec,
    tls,
};

/// Whole registries come in parts or lists of at most this size.
const MAX_ANSWER: usize = 256 << 20;

/// How a registry server is reached.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RemoteOptions {
    /// `host:port`.
    pub address: String,
    pub tls: Option<RemoteTls>,
    /// Sent as bearer token with every call.
    pub token: Option<String>,
}

/// How a registry server is trusted, and how it trusts us.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RemoteTls {
    /// Certificates to trust instead of the system's.
    pub ca: Option<PathBuf>,
    /// Our certificate and its key.
    pub client: Option<(PathBuf, PathBuf)>,
    /// The name to ask for, when it is not that of the address.
    pub authority: Option<String>,
}

/// A connection that is made when it is needed and made again when it breaks. Cloning is cheap.
#[derive(Clone)]
pub(super) struct Connection {
    address: Arc<str>,
    channel: Channel,
    token: Token,
    /// Whether the server turned out to be Feast's own.
    is_feast: Arc<AtomicBool>,
}

/// Adds the token to every call.
#[derive(Clone)]
pub(super) struct Token(Option<MetadataValue<Ascii>>);

impl Interceptor for Token {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            request.metadata_mut().insert("authorization", token.clone());
        }
        Ok(request)
    }
}

impl Connection {
    /// # Errors
    /// `Config` when the address or the certificates cannot be used.
    pub(super) fn new(options: &RemoteOptions) -> Result<Self> {
        let address = options.address.trim();
        let malformed = || {
            Error::config(format!("`{address}` is no address of a registry server"))
                .hint("give host and port, such as `feast-registry:6570`")
        };
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
        let channel = match &options.tls {
            Some(tls) => {
                // tonic would make TLS of its own of `https`; what the server is told is the origin.
                let origin = format!("https://{address}").parse().map_err(|_| malformed())?;
                endpoint = endpoint.origin(origin);
                let connector = TlsStreams::new(tls, &uri)?;
                endpoint.connect_with_connector_lazy(service_fn(move |uri| connector.clone().connect(uri)))
            }
            None => endpoint.connect_lazy(),
        };
        let token = options.token.as_ref().map(|token| {
            let mut value = MetadataValue::try_from(format!("Bearer {token}")).map_err(|_| {
                Error::config("the token for the registry server has characters that cannot be sent")
            })?;
            value.set_sensitive(true);
            Ok::<_, Error>(value)
        });
        Ok(Self {
            address: address.into(),
            channel,
            token: Token(token.transpose()?),
            is_feast: Arc::default(),
        })
    }

    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// Whether Feast's calls are the only ones the server knows.
    pub(super) fn is_feast(&self) -> bool {
        self.is_feast.load(Ordering::Relaxed)
    }

    pub(super) fn is_feast_from_now_on(&self) {
        if !self.is_feast.swap(true, Ordering::Relaxed) {
            tracing::info!(
                address = %self.address,
                "the registry server is Feast's: its changes are looked for, and an apply is not one transaction"
            );
        }
    }

    /// Calls of thali's own protocol.
    pub(super) fn sync(&self) -> RegistrySyncClient<InterceptedService<Channel, Token>> {
        RegistrySyncClient::with_interceptor(self.channel.clone(), self.token.clone())
            .max_decoding_message_size(MAX_ANSWER)
            .max_encoding_message_size(MAX_ANSWER)
    }

    /// One call of Feast's contract, as bytes both ways.
    pub(super) async fn call(&self, method: &str, request: Bytes) -> Result<Bytes> {
        let channel = InterceptedService::new(self.channel.clone(), self.token.clone());
        let mut grpc = tonic::client::Grpc::new(channel).max_decoding_message_size(MAX_ANSWER);
        let path = format!("/feast.registry.RegistryServer/{method}")
            .parse()
            .map_err(|_| Error::internal(format!("`{method}` is no method")))?;
        let unreachable = |error: tonic::transport::Error| Error::unavailable(error.to_string());
        grpc.ready().await.map_err(unreachable)?;
        let answer = grpc.unary(Request::new(request), path, BytesCodec).await;
        Ok(answer.map_err(|status| self.failed(&status))?.into_inner())
    }

    /// A failed call in words.
    pub(super) fn failed(&self, status: &Status) -> Error {
        // Feast's servers, and ours, put their errors into JSON.
        let detail: Option<serde_json::Value> = serde_json::from_str(status.message()).ok();
        let detail = detail.as_ref().and_then(|detail| detail.get("message")?.as_str());
        // A connection that cannot be made has its reason at the end of the chain.
        let message = match (detail, status.source()) {
            (Some(detail), _) => detail.to_owned(),
            (None, Some(cause)) => reason(cause),
            (None, None) => status.message().to_owned(),
        };
        let message = message.lines().next().unwrap_or_default();
        Error::new(
            kind_of(status),
            format!("registry server `{}`: {message}", self.address),
        )
    }
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
        let mut config = tls::client_of_files(tls.ca.as_deref(), identity)?;
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
