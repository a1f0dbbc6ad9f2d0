//! Around every data route: the limits, the body, and what is measured and noted of a request. Nothing
//! of it holds a value of an entity or a feature.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    body::Body,
    extract::{MatchedPath, Request, State},
    http::{Method, header},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;
use futures::StreamExt as _;

use super::{
    audit::{Asked, Audit},
    exchange,
    reply::Failure,
};
use crate::{
    error::{Error, Result},
    metrics::{LatencyLabels, Metrics, MetricsConfig, feature_count_label},
    online::limits::Limits,
};

/// Routes whose work is not left half done when their answer is late or nobody waits for it.
const WRITES: [&str; 2] = ["/push", "/write-to-online-store"];

/// What the routes are wrapped with.
pub(super) struct Guard {
    pub(super) limits: Arc<Limits>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) shown: MetricsConfig,
    pub(super) audit: Option<Audit>,
}

/// How much a request asked for; handlers leave it with the answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Size {
    pub(super) features: usize,
    pub(super) views: usize,
    pub(super) rows: usize,
    /// How long the store took.
    pub(super) read: Duration,
}

/// Answers a request within the limits.
pub(super) async fn guard(State(guard): State<Arc<Guard>>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or_else(String::new, |path| path.as_str().to_owned());
    let asked = guard.audit.as_ref().map(|audit| (audit, Asked::of(&request)));
    let response = match answer(&guard.limits, &route, request, next).await {
        Ok(response) => response,
        Err(error) => Failure::from(error).into_response(),
    };
    let took = started.elapsed();
    if let Some((audit, asked)) = asked {
        audit.note(asked, response.status(), took);
    }
    guard.note(route, &response, took);
    response
}

async fn answer(limits: &Arc<Limits>, route: &str, request: Request, next: Next) -> Result<Response> {
    let permit = limits.admit()?;
    if WRITES.contains(&route) {
        // Until its body is here, it is not begun.
        let request = limits.in_time(read(request, limits)).await??;
        return limits.to_the_end(permit, next.run(request)).await;
    }
    let work = async {
        let request = read(request, limits).await?;
        Ok(next.run(request).await)
    };
    // A materialization takes as long as it takes.
    if route.starts_with("/materialize") {
        return work.await;
    }
    limits.in_time(work).await?
}

/// The request with its body read and unpacked.
async fn read(request: Request, limits: &Limits) -> Result<Request> {
    if request.method() == Method::GET {
        return Ok(request);
    }
    let (mut parts, body) = request.into_parts();
    let announced = parts
        .headers
        .get(header::CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    let too_long = announced.is_some_and(|length| length > limits.config.max_body as u64);
    let body = collect(body, limits, too_long).await?;
    let body = exchange::unpacked(&parts.headers, body, limits)?;
    parts.headers.remove(header::CONTENT_LENGTH);
    Ok(Request::from_parts(parts, Body::from(body)))
}

/// The whole body. Of one that is too long as much again is read and thrown away: a caller that finds
/// the connection closed while it still sends never sees the answer that says why.
async fn collect(body: Body, limits: &Limits, mut too_long: bool) -> Result<Bytes> {
    let most = limits.config.max_body;
    let mut stream = body.into_data_stream();
    let mut parts = Vec::new();
    let mut length: usize = 0;
    while let Some(part) = stream.next().await {
        let part = part.map_err(|error| Error::invalid(format!("the body ended early: {error}")))?;
        length += part.len();
        too_long |= length > most;
        if !too_long {
            parts.push(part);
        } else if length > most.saturating_mul(2) {
            break;
        } else {
            parts.clear();
        }
    }
    if too_long {
        return Err(limits.too_long());
    }
    // A short body comes in one part, which is not copied.
    Ok(match parts.len() {
        1 => parts.swap_remove(0),
        _ => parts.concat().into(),
    })
}

impl Guard {
    fn note(&self, route: String, response: &Response, took: Duration) {
        let size = response.extensions().get::<Size>();
        let slow = self.limits.config.slow_request;
        if slow.is_some_and(|slow| took >= slow) {
            tracing::warn!(
                route,
                status = response.status().as_u16(),
                features = size.map_or(0, |size| size.features),
                views = size.map_or(0, |size| size.views),
                rows = size.map_or(0, |size| size.rows),
                total_ms = milliseconds(took),
                read_ms = size.map_or(0.0, |size| milliseconds(size.read)),
                "slow request"
            );
        }
        if !self.shown.request {
            return;
        }
        let bins = &self.shown.feature_count_bins;
        let labels = LatencyLabels {
            endpoint: route,
            feature_count: size.map_or_else(String::new, |size| feature_count_label(size.features, bins)),
            feature_view_count: size.map_or_else(String::new, |size| size.views.to_string()),
        };
        self.metrics
            .request_latency
            .get_or_create(&labels)
            .observe(took.as_secs_f64());
    }
}

fn milliseconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}
