//! Calls of DynamoDB's JSON protocol: signed, repeated where that can help, and errors with a name.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderValue, Method, header};
use object_store::{
    RetryConfig,
    aws::{AmazonS3Builder, AwsAuthorizer, AwsCredentialProvider},
    client::HttpRequest,
};
use serde::Deserialize;
use serde_json::Value as Json;

use crate::{
    backoff::Backoff,
    error::{Error, Kind, Result, reason},
};

/// How long a call is repeated at most before its error is told; answers that make progress do not count.
const PATIENCE: Duration = Duration::from_secs(4);

/// How long looking for credentials may take.
const CREDENTIALS_TIMEOUT: Duration = Duration::from_secs(3);

/// How DynamoDB is reached.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) endpoint: String,
    pub(super) region: String,
    pub(super) connections: usize,
    pub(super) idle: Duration,
    pub(super) connect: Duration,
    pub(super) answer: Duration,
    /// Tries of one call, the first among them.
    pub(super) attempts: usize,
}

/// A connection pool to one region.
#[derive(Debug)]
pub(super) struct Client {
    http: reqwest::Client,
    credentials: AwsCredentialProvider,
    settings: Settings,
}

/// Why a call was not answered.
#[derive(Debug)]
pub(super) enum Failure {
    /// What DynamoDB says of it.
    Refused {
        /// The error's name without its name space.
        code: String,
        message: String,
        /// The item that a condition did not fit.
        item: Option<Json>,
    },
    /// Nobody answered, or something else did.
    Unreachable(String),
    Credentials(String),
}

impl Failure {
    pub(super) fn is(&self, name: &str) -> bool {
        matches!(self, Self::Refused { code, .. } if code == name)
    }

    /// Whether there is no such table.
    pub(super) fn is_missing(&self) -> bool {
        self.is("ResourceNotFoundException")
    }

    /// Whether DynamoDB asks for patience.
    pub(super) fn is_throttling(&self) -> bool {
        [
            "ProvisionedThroughputExceededException",
            "ThrottlingException",
            "RequestLimitExceeded",
            "LimitExceededException",
        ]
        .iter()
        .any(|name| self.is(name))
    }

    fn can_pass(&self) -> bool {
        match self {
            Self::Unreachable(_) => true,
            Self::Credentials(_) => false,
            Self::Refused { .. } => {
                self.is_throttling()
                    || [
                        "InternalServerError",
                        "ServiceUnavailable",
                        "TransactionConflictException",
                    ]
                    .iter()
                    .any(|name| self.is(name))
            }
        }
    }
}

#[derive(Deserialize)]
struct Refusal {
    #[serde(rename = "__type", default)]
    kind: String,
    #[serde(alias = "Message", default)]
    message: String,
    #[serde(rename = "Item", default)]
    item: Option<Json>,
}

impl Client {
    pub(super) fn new(settings: Settings, identity: AmazonS3Builder) -> Result<Self> {
        let url = url::Url::parse(&settings.endpoint).ok();
        if url.is_none_or(|url| url.host().is_none() || !matches!(url.scheme(), "http" | "https")) {
            return Err(
                Error::config(format!("`{}` is no address of DynamoDB", settings.endpoint))
                    .hint("`online_store.endpoint_url` is a URL such as `http://localhost:8000`"),
            );
        }
        let retry = RetryConfig {
            max_retries: 1,
            retry_timeout: CREDENTIALS_TIMEOUT,
            ..RetryConfig::default()
        };
        // Only a bucket has a way to ask for credentials; this one is never used.
        let bucket = identity
            .with_bucket_name("none")
            .with_region(&settings.region)
            .with_retry(retry)
            .build()
            .map_err(|error| {
                Error::config(format!("the credentials for DynamoDB make no sense: {error}"))
                    .hint("check the variables that begin with `AWS_`")
            })?;
        let http = reqwest::Client::builder()
            .pool_max_idle_per_host(settings.connections)
            .pool_idle_timeout(settings.idle)
            .connect_timeout(settings.connect)
            .timeout(settings.answer)
            .tcp_nodelay(true)
            .build()
            .map_err(|error| Error::config("connections to DynamoDB cannot be set up").source_error(error))?;
        Ok(Self {
            http,
            credentials: Arc::clone(bucket.credentials()),
            settings,
        })
    }

    /// The answer to one operation. What may pass is tried again, as often as is configured.
    pub(super) async fn call(&self, operation: &str, request: &Json) -> Result<Bytes, Failure> {
        let body = Bytes::from(request.to_string());
        let begin = Instant::now();
        let mut attempt = 1;
        let mut backoff = backoff();
        loop {
            match self.once(operation, &body).await {
                Err(failure)
                    if failure.can_pass()
                        && attempt < self.settings.attempts
                        && begin.elapsed() < PATIENCE =>
                {
                    backoff.pause().await;
                    attempt += 1;
                }
                outcome => return outcome,
            }
        }
    }

    async fn once(&self, operation: &str, body: &Bytes) -> Result<Bytes, Failure> {
        let credential = tokio::time::timeout(2 * CREDENTIALS_TIMEOUT, self.credentials.get_credential())
            .await
            .map_err(|_| Failure::Credentials("the metadata service does not answer".to_owned()))?
            .map_err(|error| Failure::Credentials(error.to_string()))?;
        let unreachable = |error: &dyn std::fmt::Display| Failure::Unreachable(error.to_string());
        let target = HeaderValue::try_from(format!("DynamoDB_20120810.{operation}"))
            .map_err(|error| unreachable(&error))?;
        let mut signed: HttpRequest = http::Request::builder()
            .method(Method::POST)
            .uri(&self.settings.endpoint)
            .header(header::CONTENT_TYPE, "application/x-amz-json-1.0")
            .header("x-amz-target", target)
            .body(body.clone().into())
            .map_err(|error| unreachable(&error))?;
        AwsAuthorizer::new(&credential, "dynamodb", &self.settings.region).authorize(&mut signed, None);
        let sent = self
            .http
            .post(&self.settings.endpoint)
            .headers(signed.headers().clone())
            .body(body.clone())
            .send()
            .await
            .map_err(|error| Failure::Unreachable(reason(&error)))?;
        let status = sent.status();
        let answer = sent
            .bytes()
            .await
            .map_err(|error| Failure::Unreachable(reason(&error)))?;
        if status.is_success() {
            return Ok(answer);
        }
        match serde_json::from_slice::<Refusal>(&answer) {
            Ok(refusal) if !refusal.kind.is_empty() => {
                let code = refusal.kind.rsplit(['#', '.']).next().unwrap_or_default();
                Err(Failure::Refused {
                    code: code.to_owned(),
                    message: refusal.message,
                    item: refusal.item,
                })
            }
            _ => Err(Failure::Unreachable(format!("it answers with status {status}"))),
        }
    }

    /// What to tell of a failure.
    pub(super) fn told(&self, failure: Failure, doing: &str, table: &str) -> Error {
        let place = format!("{doing} DynamoDB table `{table}`");
        match failure {
            failure if failure.is_throttling() => Error::new(
                Kind::Overloaded,
                format!("{place}: DynamoDB is throttling and did not stop in time"),
            ),
            Failure::Unreachable(why) => Error::unavailable(format!(
                "{place}: `{}` does not answer: {why}",
                self.settings.endpoint
            )),
            Failure::Credentials(why) => {
                Error::unavailable(format!("{place}: no credentials for AWS were found: {why}"))
                    .hint("set `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`, or give the machine a role")
            }
            Failure::Refused { code, message, .. } => {
                let error = Error::unavailable(format!("{place}: {code}: {message}"));
                match code.as_str() {
                    "ResourceNotFoundException" => error.hint("run `thali apply` to create it"),
                    "AccessDeniedException" => error.hint("give this role the right to do it"),
                    "UnrecognizedClientException" | "ExpiredTokenException" | "InvalidSignatureException" => {
                        error.hint("check the AWS credentials and `online_store.region`")
                    }
                    _ => error,
                }
            }
        }
    }

    /// The call's answer as a type.
    pub(super) async fn ask<T: for<'de> Deserialize<'de>>(
        &self,
        operation: &str,
        request: &Json,
    ) -> Result<T, Failure> {
        parse(&self.call(operation, request).await?)
    }
}

/// An answer as a type.
pub(super) fn parse<'a, T: Deserialize<'a>>(answer: &'a [u8]) -> Result<T, Failure> {
    serde_json::from_slice(answer)
        .map_err(|error| Failure::Unreachable(format!("its answer makes no sense: {error}")))
}

/// The pauses between tries at DynamoDB.
pub(super) const fn backoff() -> Backoff {
    Backoff::new(Duration::from_millis(50), Duration::from_millis(800))
}
