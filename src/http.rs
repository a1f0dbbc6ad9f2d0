//! What every HTTP listener shares: the log line and metrics of a request, panics turned into 500, and
//! the health routes. Error bodies belong to the surfaces, since Feast's differ.

pub(crate) mod openapi;
pub(crate) mod route;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{
    Json, Router,
    extract::{MatchedPath, Request, State},
    http::{self, HeaderName, HeaderValue, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use futures::future::{BoxFuture, join_all};
use tower::ServiceBuilder;
use tower_http::{
    catch_panic::CatchPanicLayer,
    request_id::{MakeRequestId, PropagateRequestIdLayer, RequestId, SetRequestIdLayer},
};

use tracing::Instrument as _;
use uuid::Uuid;

use crate::{
    error::Result,
    metrics::{Metrics, RequestLabels},
    telemetry::{self, SPANS},
};

/// How long a readiness check may take before it counts as failed.
const CHECK_TIMEOUT: Duration = Duration::from_secs(2);

type Check = Box<dyn Fn() -> BoxFuture<'static, Result<()>> + Send + Sync>;

/// Something a node needs.
struct Need {
    name: &'static str,
    check: Check,
    /// Whether the node can do its work for now although the check fails.
    can_wait: Box<dyn Fn() -> bool + Send + Sync>,
}

/// What a node needs before it takes requests. Turned off for good when it drains.
#[derive(Default)]
pub struct Readiness {
    needs: Vec<Need>,
    draining: AtomicBool,
}

impl Readiness {
    /// Adds a named check.
    pub fn add<F>(&mut self, name: &'static str, check: F)
    where
        F: Fn() -> BoxFuture<'static, Result<()>> + Send + Sync + 'static,
    {
        self.add_unless(name, check, || false);
    }

    /// Adds a named check that may fail as long as `can_wait`: the report says `degraded` then, and the
    /// node stays ready.
    pub fn add_unless<F, W>(&mut self, name: &'static str, check: F, can_wait: W)
    where
        F: Fn() -> BoxFuture<'static, Result<()>> + Send + Sync + 'static,
        W: Fn() -> bool + Send + Sync + 'static,
    {
        self.needs.push(Need {
            name,
            check: Box::new(check),
            can_wait: Box::new(can_wait),
        });
    }

    /// From now on the node says that it is not ready.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::SeqCst);
    }

    /// Whether everything answers, and what does not.
    pub async fn look(&self) -> (bool, serde_json::Map<String, serde_json::Value>) {
        let mut report = serde_json::Map::new();
        let mut ready = !self.draining.load(Ordering::SeqCst);
        if !ready {
            report.insert("node".to_owned(), "shutting down".into());
        }
        let looks = self.needs.iter().map(|need| async move {
            let outcome = match tokio::time::timeout(CHECK_TIMEOUT, (need.check)()).await {
                Ok(Ok(())) => Ok(()),
                Ok(Err(error)) => Err(error.one_line()),
                Err(_) => Err(format!("no answer within {} s", CHECK_TIMEOUT.as_secs())),
            };
            (need, outcome)
        });
        for (need, outcome) in join_all(looks).await {
            let text = match outcome {
                Ok(()) => "ok".to_owned(),
                Err(reason) if (need.can_wait)() => format!("degraded: {reason}"),
                Err(reason) => {
                    ready = false;
                    reason
                }
            };
            report.insert(need.name.to_owned(), text.into());
        }
        (ready, report)
    }
}

/// Wraps a listener's routes with what all of them share; `/ready`, `/live` and `/metrics` are added,
/// and `/health` where the routes have none of their own.
pub fn listener(
    routes: Router,
    own_health: bool,
    readiness: &Arc<Readiness>,
    metrics: &Arc<Metrics>,
) -> Router {
    let scrape = Arc::clone(metrics);
    let mut shared = Router::new()
        .route("/ready", get(ready))
        .route("/live", get(|| async { "alive" }))
        .with_state(Arc::clone(readiness))
        .route("/metrics", get(move || async move { exposition(&scrape) }));
    if !own_health {
        shared = shared.route(
            "/health",
            get(|| async { Json(serde_json::json!({"status": "ok"})) }),
        );
    }
    let id = HeaderName::from_static("x-request-id");
    routes
        .merge(shared)
        // Layers put on together are one service, those put on one by one would each be a boxed one.
        .layer(
            ServiceBuilder::new()
                .layer(CatchPanicLayer::new())
                .layer(SetRequestIdLayer::new(id.clone(), Numbered::new()))
                .layer(PropagateRequestIdLayer::new(id))
                .layer(middleware::from_fn_with_state(Arc::clone(metrics), observe)),
        )
}

/// Ids of requests that come without one: a number drawn at start, and how many came before. To draw one for
/// each would be a call to the system for each.
#[derive(Debug, Clone)]
struct Numbered {
    node: Uuid,
    next: Arc<AtomicU64>,
}

impl Numbered {
    fn new() -> Self {
        let node = Uuid::new_v4();
        let next = Arc::default();
        Self { node, next }
    }
}

impl MakeRequestId for Numbered {
    fn make_request_id<B>(&mut self, _: &http::Request<B>) -> Option<RequestId> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let id = Uuid::from_u128(self.node.as_u128().wrapping_add(u128::from(number)));
        let text = id
            .hyphenated()
            .encode_lower(&mut Uuid::encode_buffer())
            .to_owned();
        HeaderValue::try_from(text).ok().map(RequestId::new)
    }
}

fn exposition(metrics: &Metrics) -> Response {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], metrics.render()).into_response()
}

async fn ready(State(readiness): State<Arc<Readiness>>) -> Response {
    let (ready, checks) = readiness.look().await;
    let status = if ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (
        status,
        Json(serde_json::json!({"ready": ready, "checks": checks})),
    )
        .into_response()
}

/// Counts a request for as long as it lives, also one whose caller goes away.
struct InFlight(Arc<Metrics>);

impl InFlight {
    fn new(metrics: &Arc<Metrics>) -> Self {
        metrics.in_flight.inc();
        Self(Arc::clone(metrics))
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.dec();
    }
}

async fn observe(State(metrics): State<Arc<Metrics>>, request: Request, next: Next) -> Response {
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or_else(|| "other".to_owned(), |path| path.as_str().to_owned());
    let method = request.method().clone();
    let started = Instant::now();
    let in_flight = InFlight::new(&metrics);
    let span = tracing::info_span!(target: SPANS, "request", %method, route);
    telemetry::follow(&span, request.headers());
    let response = next.run(request).instrument(span).await;
    drop(in_flight);
    let status = response.status();
    let failed = status.is_client_error() || status.is_server_error();
    let outcome = if failed { "error" } else { "success" };
    tracing::debug!(%method, route, status = status.as_u16(), seconds = started.elapsed().as_secs_f64(), "request");
    metrics
        .requests
        .get_or_create(&RequestLabels {
            endpoint: route,
            status: outcome,
        })
        .inc();
    response
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use axum::body::Body;
    use tower::ServiceExt as _;

    use super::*;
    use crate::error::Error;

    async fn status(router: &Router, path: &str) -> StatusCode {
        let request = Request::builder().uri(path).body(Body::empty()).unwrap();
        router.clone().oneshot(request).await.unwrap().status()
    }

    #[tokio::test]
    async fn readiness_names_what_fails_and_ends_with_draining() {
        let mut readiness = Readiness::default();
        readiness.add("store", || Box::pin(async { Ok(()) }));
        let readiness = Arc::new(readiness);
        let router = listener(Router::new(), false, &readiness, &Arc::default());
        assert_eq!(status(&router, "/ready").await, StatusCode::OK);
        assert_eq!(status(&router, "/health").await, StatusCode::OK);
        readiness.drain();
        assert_eq!(status(&router, "/ready").await, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(status(&router, "/live").await, StatusCode::OK);

        let mut broken = Readiness::default();
        broken.add("store", || Box::pin(async { Err(Error::unavailable("gone")) }));
        let (ready, report) = broken.look().await;
        assert!(!ready);
        assert_eq!(report["store"], "gone");

        let mut patient = Readiness::default();
        let gone =
            || -> BoxFuture<'static, Result<()>> { Box::pin(async { Err(Error::unavailable("gone")) }) };
        patient.add_unless("registry", gone, || true);
        let (ready, report) = patient.look().await;
        assert!(ready, "what it does not need now does not take it out of service");
        assert_eq!(report["registry"], "degraded: gone");
    }
}
