//! [`RemoteStore`]: another feature server over HTTP, Feast's or thali's, as an online store
//! (`feast/infra/online_stores/remote.py`).
//!
//! Reads ask for all views of a request at once where their entities allow it. The tables are the other
//! side's business: preparing and dropping them does nothing here.

mod answer;
mod request;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use futures::future::try_join_all;
use http::{HeaderValue, StatusCode, header};
use serde_json::{Value as Json, json};

use super::{
    OlderRow, OnlineRead, OnlineStore, RowBatch, StoreKind, Table, WriteBatch, batch::described,
    kind::Opening,
};
use crate::{
    backoff::Backoff,
    config::schema::{Kind as Holds, Schema, Unknown, used},
    error::{Error, Kind, Result, reason},
    model::{FeatureView, entity_key::Version},
    tls,
};

/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// How long an answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a request is repeated at most.
const PATIENCE: Duration = Duration::from_secs(5);

/// The `remote` type.
pub static KIND: StoreKind = StoreKind {
    name: "remote",
    schema: &SCHEMA,
    open: |opening| {
        Box::pin(async move { Ok(Arc::new(RemoteStore::open(&opening)?) as Arc<dyn OnlineStore>) })
    },
};

static SCHEMA: Schema = Schema {
    unknown: Unknown::Refused,
    keys: &[
        used("type", Holds::Text, Some("remote")),
        used("path", Holds::Text, Some("http://localhost:6566")),
        used("cert", Holds::Text, Some("")),
        used("connection_pool_size", Holds::Int, Some("50")),
        used("connection_idle_timeout", Holds::Int, Some("300")),
        used("connection_retries", Holds::Int, Some("3")),
    ],
};

/// A feature server somewhere else.
#[derive(Debug)]
pub struct RemoteStore {
    http: reqwest::Client,
    url: String,
    retries: u32,
    key_version: Version,
}

impl RemoteStore {
    fn open(opening: &Opening<'_>) -> Result<Self> {
        let section = opening.section;
        let url = section
            .text("path")
            .unwrap_or_default()
            .trim_end_matches('/')
            .to_owned();
        let parsed = url::Url::parse(&url).ok();
        if parsed.is_none_or(|url| url.host().is_none() || !matches!(url.scheme(), "http" | "https")) {
            return Err(Error::config(format!(
                "`online_store.path` is `{url}`, which is no address of a feature server"
            ))
            .hint("for example `http://localhost:6566`"));
        }
        let number = |key: &str, otherwise: u32| {
            let number = section.int(key).and_then(|number| u32::try_from(number).ok());
            number.unwrap_or(otherwise)
        };
        let idle = number("connection_idle_timeout", 300);
        let mut builder = reqwest::Client::builder()
            .pool_max_idle_per_host(number("connection_pool_size", 50) as usize)
            .pool_idle_timeout((idle > 0).then(|| Duration::from_secs(idle.into())))
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(ANSWER_TIMEOUT)
            .tcp_nodelay(true);
        if let Some(cert) = section.text("cert").filter(|cert| !cert.is_empty()) {
            let config = tls::client_of_files(Some(&opening.repo_path.join(cert)), None)?;
            builder = builder.use_preconfigured_tls(config);
        }
        if let Some(token) = section.text("token") {
            let mut value = HeaderValue::try_from(format!("Bearer {token}"))
                .map_err(|_| Error::config("`thali.online_token` is no token"))?;
            value.set_sensitive(true);
            builder = builder.default_headers([(header::AUTHORIZATION, value)].into_iter().collect());
        }
        let http = builder.build().map_err(|error| {
            Error::config("connections to the feature server cannot be set up").source_error(error)
        })?;
        Ok(Self {
            http,
            url,
            retries: number("connection_retries", 3),
            key_version: opening.key_version,
        })
    }

    /// One request. A read is tried again whatever went wrong on the way; a write only if it cannot have
    /// arrived.
    async fn post(&self, route: &str, body: &Json, is_read: bool) -> Result<reqwest::Response> {
        let body = bytes::Bytes::from(body.to_string());
        let begin = std::time::Instant::now();
        let mut attempt = 0;
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_millis(800));
        loop {
            let sent = self
                .http
                .post(format!("{}{route}", self.url))
                .header(header::ACCEPT, "application/x-protobuf, application/json;q=0.9")
                .header(header::CONTENT_TYPE, "application/json")
                .body(body.clone())
                .send()
                .await;
            let failed = match sent {
                Ok(response) if response.status().is_success() => return Ok(response),
                Ok(response) => {
                    let status = response.status();
                    let passes = matches!(
                        status,
                        StatusCode::TOO_MANY_REQUESTS
                            | StatusCode::BAD_GATEWAY
                            | StatusCode::SERVICE_UNAVAILABLE
                            | StatusCode::GATEWAY_TIMEOUT
                    );
                    let text = response.text().await.unwrap_or_default();
                    (self.refused(status, &text), passes && is_read)
                }
                Err(error) => (
                    self.unreachable(&error),
                    is_read && !error.is_timeout() || error.is_connect(),
                ),
            };
            match failed {
                (_, true) if attempt < self.retries && begin.elapsed() < PATIENCE => {
                    backoff.pause().await;
                    attempt += 1;
                }
                (error, _) => return Err(error),
            }
        }
    }

    fn unreachable(&self, error: &reqwest::Error) -> Error {
        let why = reason(error);
        Error::unavailable(format!("feature server `{}` cannot be reached: {why}", self.url))
    }

    /// What the other side says of a request it does not answer.
    fn refused(&self, status: StatusCode, body: &str) -> Error {
        let told = format!(
            "feature server `{}` answers {status}: {}",
            self.url,
            message(body)
        );
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                Error::unavailable(told).hint("set `thali.online_token` to a token it accepts")
            }
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                Error::new(Kind::Overloaded, told)
            }
            status if status.is_server_error() => Error::unavailable(told),
            // It knows other views than this side does, or other types.
            _ => Error::internal(told).hint("apply the same definitions on both sides"),
        }
    }

    async fn ask(&self, question: &request::Question<'_>) -> Result<Vec<RowBatch>> {
        let response = self.post("/get-online-features", &question.body, true).await?;
        let kind = response.headers().get(header::CONTENT_TYPE);
        let is_protobuf = kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/x-protobuf"));
        let bytes = response.bytes().await.map_err(|error| self.unreachable(&error))?;
        let answer = if is_protobuf {
            answer::from_protobuf(bytes)
        } else {
            answer::from_json(&bytes)
        };
        let batches = answer.and_then(|answer| question.batches(&answer));
        batches.map_err(|error| {
            Error::unavailable(format!(
                "the answer of feature server `{}` makes no sense: {}",
                self.url,
                error.message()
            ))
        })
    }
}

#[async_trait]
impl OnlineStore for RemoteStore {
    async fn read(&self, read: &OnlineRead<'_>) -> Result<Vec<RowBatch>> {
        let questions = request::questions(read.groups, self.key_version)?;
        let mut asked = Vec::with_capacity(questions.len());
        for question in &questions {
            asked.push(self.ask(question));
        }
        let answers = try_join_all(asked).await?;
        let mut batches = Vec::new();
        for (question, answer) in questions.iter().zip(answers) {
            batches.extend(question.places.iter().copied().zip(answer));
        }
        batches.sort_by_key(|(place, _)| *place);
        Ok(batches.into_iter().map(|(_, batch)| batch).collect())
    }

    async fn write(&self, _: &str, table: &Table, batch: &WriteBatch, older: OlderRow) -> Result<u64> {
        let rows = batch.newest_rows()?;
        if rows.is_empty() {
            return Ok(0);
        }
        let body = json!({
            "feature_view_name": table.view.name,
            "df": request::frame(table, batch, &rows, self.key_version)?,
            "allow_registry_cache": false,
            "transform_on_write": false,
            "allow_older": older == OlderRow::Overwrite,
        });
        let sent = self.post("/write-to-online-store", &body, false).await;
        sent.map_err(|error| {
            let first = rows.first().map(|row| described(&batch.keys[*row]));
            error.context(format!(
                "{} rows of `{}` may not be written (the first is {})",
                rows.len(),
                table.name,
                first.unwrap_or_default()
            ))
        })?;
        Ok(rows.len() as u64)
    }

    async fn provision(&self, _: &str, _: &[Arc<FeatureView>], _: &[Table]) -> Result<()> {
        Ok(())
    }

    fn name(&self) -> &'static str {
        KIND.name
    }

    async fn check(&self) -> Result<()> {
        let sent = self.http.get(format!("{}/health", self.url)).send().await;
        let status = sent.map_err(|error| self.unreachable(&error))?.status();
        if status.is_success() {
            Ok(())
        } else {
            Err(Error::unavailable(format!(
                "feature server `{}` is not healthy: {status}",
                self.url
            )))
        }
    }
}

/// What an error's body says: Feast's is a JSON text that holds JSON, others are plain.
fn message(body: &str) -> String {
    const LONGEST: usize = 500;
    let text = match serde_json::from_str(body) {
        Ok(Json::String(text)) => text,
        Ok(Json::Object(fields)) => fields.get("detail").map_or_else(String::new, Json::to_string),
        _ => body.to_owned(),
    };
    let inner: Option<Json> = serde_json::from_str(&text).ok();
    let told = inner
        .as_ref()
        .and_then(|inner| inner.get("message")?.as_str())
        .unwrap_or(&text);
    told.chars().take(LONGEST).collect::<String>().replace('\n', " ")
}
