//! The connection to a registry server: address, certificates, token, and its errors in words.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity, Uri},
};

use super::kind_of;
use crate::{
    error::{Error, Result},
    proto::thali::registry::registry_sync_client::RegistrySyncClient,
    registry::grpc::BytesCodec,
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
        let scheme = if options.tls.is_some() { "https" } else { "http" };
        let malformed = || {
            Error::config(format!("`{address}` is no address of a registry server"))
                .hint("give host and port, such as `feast-registry:6570`")
        };
        let uri: Uri = format!("{scheme}://{address}").parse().map_err(|_| malformed())?;
        if uri.port().is_none() || uri.path() != "/" {
            return Err(malformed());
        }
        let mut endpoint = Endpoint::from(uri)
            .connect_timeout(Duration::from_secs(5))
            .tcp_keepalive(Some(Duration::from_secs(20)))
            .http2_keep_alive_interval(Duration::from_secs(10))
            .keep_alive_timeout(Duration::from_secs(10))
            .keep_alive_while_idle(true);
        if let Some(tls) = &options.tls {
            let broken = |error| Error::config(format!("TLS to `{address}`: {error}"));
            endpoint = endpoint.tls_config(tls_config(tls)?).map_err(broken)?;
        }
        let token = options.token.as_ref().map(|token| {
            let mut value = MetadataValue::try_from(format!("Bearer {token}")).map_err(|_| {
                Error::config("the token for the registry server has characters that cannot be sent")
            })?;
            value.set_sensitive(true);
            Ok::<_, Error>(value)
        });
        Ok(Self {
            address: address.into(),
            channel: endpoint.connect_lazy(),
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
        let message = detail
            .as_ref()
            .and_then(|detail| detail.get("message")?.as_str())
            .unwrap_or_else(|| status.message());
        let message = message.lines().next().unwrap_or_default();
        Error::new(
            kind_of(status),
            format!("registry server `{}`: {message}", self.address),
        )
    }
}

fn tls_config(tls: &RemoteTls) -> Result<ClientTlsConfig> {
    let read = |path: &PathBuf| {
        std::fs::read(path)
            .map_err(|error| Error::config(format!("certificate file `{}`: {error}", path.display())))
    };
    let mut config = ClientTlsConfig::new();
    config = match &tls.ca {
        Some(path) => config.ca_certificate(Certificate::from_pem(read(path)?)),
        None => config.with_native_roots(),
    };
    if let Some((certificate, key)) = &tls.client {
        config = config.identity(Identity::from_pem(read(certificate)?, read(key)?));
    }
    if let Some(authority) = &tls.authority {
        let host = authority
            .rsplit_once(':')
            .map_or(authority.as_str(), |(host, _)| host);
        config = config.domain_name(host);
    }
    Ok(config)
}
