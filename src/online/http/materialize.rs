//! The materialization routes. A run goes on when the caller hangs up, as in Feast; it is asked for
//! again without harm, since stores never go back in event time. `dry_run` and `backfill` are thali's own.

use axum::{
    body::Bytes,
    extract::{RawQuery, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::post,
};
use chrono::{DateTime, Utc};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::reply::{Failure, json_bytes};
use crate::{
    context::Context,
    error::{Error, Result},
    http::{
        openapi::schema::{list, nullable, of_fields, text},
        route::{Route, param},
    },
    materialize::{self, Report, Request, Window},
    model::value::text::parse_instant,
    online::{
        json::body::{self, MaterializeBody},
        store::OlderRow,
    },
    schedule::ledger::Trigger,
};

pub(super) fn routes(context: &Context) -> Vec<Route<()>> {
    let views = || ("feature_views", nullable(&list(&text())), true);
    let flag = |name| (name, json!({"type": "boolean"}), true);
    let always = flag("disable_event_timestamp");
    let route = |path: &str, summary: &str, handler| {
        let accept_only = param(
            "async",
            json!({"type": "boolean", "default": false}),
            "answer 202 at once",
        );
        Route::new("post", path, summary, handler)
            .takes([accept_only])
            .answers(json!({}))
    };
    let routes = [
        route(
            "/materialize",
            "Materializes a window of event time",
            post(between),
        )
        .reads(of_fields(vec![
            ("start_ts", nullable(&text()), true),
            ("end_ts", nullable(&text()), true),
            views(),
            always,
            flag("dry_run"),
            flag("backfill"),
        ])),
        route(
            "/materialize-incremental",
            "Materializes what is new",
            post(incremental),
        )
        .reads(of_fields(vec![
            ("end_ts", text(), false),
            views(),
            flag("dry_run"),
            flag("backfill"),
        ])),
    ];
    routes
        .into_iter()
        .map(|route| route.with_state(context.clone()))
        .collect()
}

async fn between(
    State(context): State<Context>,
    RawQuery(query): RawQuery,
    raw: Bytes,
) -> Result<Response, Failure> {
    let body = body::read_materialize(&raw, false)?;
    let window = window(&body, Utc::now())?;
    start(context, body, window, is_async(query.as_deref())).await
}

async fn incremental(
    State(context): State<Context>,
    RawQuery(query): RawQuery,
    raw: Bytes,
) -> Result<Response, Failure> {
    let body = body::read_materialize(&raw, true)?;
    let end = time("end_ts", body.end_ts.as_deref().unwrap_or_default())?;
    start(
        context,
        body,
        Window::Incremental { end },
        is_async(query.as_deref()),
    )
    .await
}

/// The window of event times a request names.
fn window(body: &MaterializeBody, now: DateTime<Utc>) -> Result<Window> {
    if body.disable_event_timestamp {
        return Ok(Window::Between {
            start: DateTime::UNIX_EPOCH,
            end: now,
        });
    }
    let (Some(start), Some(end)) = (&body.start_ts, &body.end_ts) else {
        return Err(Error::invalid(
            "`start_ts` and `end_ts` are required when `disable_event_timestamp` is false",
        ));
    };
    let (start, end) = (time("start_ts", start)?, time("end_ts", end)?);
    if start >= end {
        return Err(Error::invalid(format!(
            "`start_ts` ({start}) must be before `end_ts` ({end})"
        )));
    }
    Ok(Window::Between { start, end })
}

fn time(name: &str, text: &str) -> Result<DateTime<Utc>> {
    let parsed = parse_instant(text).map(|(instant, _)| instant);
    parsed.ok_or_else(|| {
        Error::invalid(format!("`{name}` is `{text}`, which is no time"))
            .hint("write ISO 8601, for example `2026-11-21T10:00:00`; without an offset it is UTC")
    })
}

fn is_async(query: Option<&str>) -> bool {
    let mut pairs = query.unwrap_or_default().split('&');
    pairs.any(|pair| matches!(pair.split_once('='), Some(("async", "true" | "1" | "True"))))
}

async fn start(
    context: Context,
    body: MaterializeBody,
    window: Window,
    accept_only: bool,
) -> Result<Response, Failure> {
    if let Some(version) = &body.version {
        let told = format!("version `{version}` of a view cannot be materialized by itself");
        return Err(Error::unsupported(told)
            .hint("leave `version` out to materialize the active version")
            .into());
    }
    let project = context.config.project.clone();
    let names = body.feature_views.unwrap_or_default();
    // Wrong names are refused now, also when the caller will not wait for the rest.
    let catalog = context.registry.fresh_catalog(&project).await?;
    let chosen = materialize::chosen(&catalog, &names)?;
    let views: Vec<String> = chosen.iter().map(|view| view.name().to_owned()).collect();
    if views.is_empty() {
        // An empty list would mean every view to the run below.
        return Ok(done(accept_only, &views));
    }
    let mut request = Request::new(&project, views.clone(), window, Trigger::Http);
    if body.backfill {
        request.older = OlderRow::Overwrite;
    }
    if body.dry_run {
        let reports = materialize::dry_run(&context, &request).await?;
        let told = |report: &Report| {
            json!({
                "feature_view": report.view, "start_ts": report.start, "end_ts": report.end,
                "rows": report.counts.read, "keys": report.counts.written,
            })
        };
        let told: Vec<_> = reports.iter().map(told).collect();
        return Ok(axum::Json(json!({"status": "dry_run", "feature_views": told})).into_response());
    }
    let run = tokio::spawn(async move {
        let outcome = materialize::run(&context, request, CancellationToken::new()).await;
        if let Err(error) = &outcome {
            tracing::error!(%error, "materialization asked for over HTTP failed");
        }
        outcome
    });
    if !accept_only {
        let ended = run.await;
        ended
            .map_err(|error| Error::internal("materialization ended unexpectedly").source_error(error))??;
    }
    Ok(done(accept_only, &views))
}

fn done(accepted: bool, views: &[String]) -> Response {
    if accepted {
        let body = json!({"status": "accepted", "feature_views": views});
        return (StatusCode::ACCEPTED, axum::Json(body)).into_response();
    }
    json_bytes(StatusCode::OK, b"null".to_vec())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn body(start: Option<&str>, end: Option<&str>, always: bool) -> MaterializeBody {
        MaterializeBody {
            start_ts: start.map(str::to_owned),
            end_ts: end.map(str::to_owned),
            feature_views: None,
            disable_event_timestamp: always,
            version: None,
            dry_run: false,
            backfill: false,
        }
    }

    #[test]
    fn windows_need_two_times_in_order() {
        let now = Utc::now();
        let day = |text| time("x", text).unwrap();
        assert_eq!(
            window(
                &body(Some("2026-11-20T00:00:00"), Some("2026-11-21 12:00"), false),
                now
            )
            .unwrap(),
            Window::Between {
                start: day("2026-11-20"),
                end: day("2026-11-21T12:00:00Z")
            }
        );
        for (start, end) in [
            (None, Some("2026-11-20")),
            (Some("2026-11-20"), None),
            (Some("x"), Some("2026-11-20")),
        ] {
            assert!(window(&body(start, end, false), now).is_err());
        }
        assert!(window(&body(Some("2026-11-22"), Some("2026-11-21"), false), now).is_err());
        assert_eq!(
            window(&body(None, None, true), now).unwrap(),
            Window::Between {
                start: DateTime::UNIX_EPOCH,
                end: now
            }
        );
    }

    #[test]
    fn async_is_asked_for_in_the_query() {
        assert!(is_async(Some("force=true&async=true")));
        assert!(!is_async(Some("async=false")) && !is_async(None));
    }
}
