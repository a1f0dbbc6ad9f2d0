//! The connection to a registry server: address, certificates, token, and its errors in words.

use std::{
    error::Error as _,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use tonic::{Request, Status, service::interceptor::InterceptedService, transport::Channel};

use super::kind_of;

pub use crate::tls::grpc::RemoteTls;
use crate::{
    error::{Error, Result, reason},
    proto::thali::registry::registry_sync_client::RegistrySyncClient,
    registry::grpc::BytesCodec,
    tls::grpc::{self, Token},
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

/// A connection that is made when it is needed and made again when it breaks. Cloning is cheap.
#[derive(Clone)]
pub(super) struct Connection {
    address: Arc<str>,
    channel: Channel,
    token: Token,
    /// Whether the server turned out to be Feast's own.
    is_feast: Arc<AtomicBool>,
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
        let channel = grpc::channel(address, options.tls.as_ref(), malformed)?;
        let token = Token::new(options.token.as_deref(), || {
            Error::config("the token for the registry server has characters that cannot be sent")
        });
        Ok(Self {
            address: address.into(),
            channel,
            token: token?,
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
