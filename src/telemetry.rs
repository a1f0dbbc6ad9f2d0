//! Log and traces of the process: set up once at start. Nothing is exported unless a collector is named,
//! and without one no span is made: those of [`SPANS`] are for traces only, the log does not ask for them.

use http::HeaderMap;
use opentelemetry::{
    propagation::{Extractor, TextMapPropagator as _},
    trace::TracerProvider as _,
};
use opentelemetry_otlp::WithExportConfig as _;
use opentelemetry_sdk::{
    propagation::TraceContextPropagator,
    trace::{Sampler, SdkTracerProvider},
};
use tracing::{Dispatch, Span};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::{EnvFilter, Layer as _, layer::SubscriberExt as _, util::SubscriberInitExt as _};

use crate::error::{Error, Result};

/// The target of spans that traces are made of.
pub const SPANS: &str = "thali::spans";

/// Where traces go.
#[derive(Debug, Clone, Copy)]
pub struct Traces<'a> {
    /// An OTLP/gRPC collector.
    pub endpoint: &'a str,
    /// The share of requests that are traced, where the caller does not decide.
    pub sample_ratio: f64,
}

/// Keeps the trace exporter; [`Telemetry::shutdown`] sends what it still holds.
#[derive(Debug, Default)]
pub struct Telemetry {
    traces: Option<SdkTracerProvider>,
}

/// Sets up logging to standard error at `level` (`RUST_LOG` syntax) and, if they are wanted, traces. Must
/// run inside the runtime.
///
/// # Errors
/// `Config` when the level or the endpoint is malformed.
pub fn start(level: &str, traces: Option<Traces<'_>>) -> Result<Telemetry> {
    let log = log_filter(level)?;
    let provider = traces.map(tracer).transpose()?;
    // A second start (tests) keeps the first subscriber.
    if let Err(error) = subscriber(log, provider.as_ref()).try_init() {
        tracing::debug!(%error, "telemetry was set up before");
    }
    Ok(Telemetry { traces: provider })
}

/// Where events and spans go: to standard error what passes `log`, and to `provider` its traces.
fn subscriber(log: EnvFilter, provider: Option<&SdkTracerProvider>) -> Dispatch {
    let log = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_filter(log);
    let log = tracing_subscriber::registry().with(log);
    // A layer that is `None` would ask for every span.
    let Some(provider) = provider else {
        return log.into();
    };
    let spans = tracing_opentelemetry::layer()
        .with_tracer(provider.tracer("thali"))
        .with_filter(EnvFilter::new("thali=info"));
    log.with(spans).into()
}

fn log_filter(level: &str) -> Result<EnvFilter> {
    // The ticker reports its own start-up as information; spans are for traces.
    EnvFilter::try_new(format!("{level},tokio_cron_scheduler=warn,{SPANS}=off")).map_err(|error| {
        Error::config(format!("`{level}` is no log level: {error}"))
            .hint("use error, warn, info, debug or trace")
    })
}

fn tracer(traces: Traces<'_>) -> Result<SdkTracerProvider> {
    let endpoint = traces.endpoint;
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_tonic()
        .with_endpoint(endpoint)
        .build()
        .map_err(|error| Error::config(format!("traces cannot be sent to `{endpoint}`: {error}")))?;
    let resource = opentelemetry_sdk::Resource::builder()
        .with_service_name("thali")
        .build();
    let sampler = Sampler::TraceIdRatioBased(traces.sample_ratio);
    Ok(SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_sampler(Sampler::ParentBased(Box::new(sampler)))
        .with_resource(resource)
        .build())
}

/// Makes a request's span part of its caller's trace (W3C `traceparent`). Costs nothing without traces.
pub fn follow(span: &Span, headers: &HeaderMap) {
    if span.is_disabled() || !headers.contains_key("traceparent") {
        return;
    }
    let parent = TraceContextPropagator::new().extract(&Headers(headers));
    if let Err(error) = span.set_parent(parent) {
        tracing::debug!(%error, "the caller's trace cannot be followed");
    }
}

struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(http::HeaderName::as_str).collect()
    }
}

impl Telemetry {
    /// Sends what is still held and stops.
    pub fn shutdown(self) {
        if let Some(Err(error)) = self.traces.map(|provider| provider.shutdown()) {
            tracing::warn!(%error, "the last traces could not be sent");
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn spans_are_made_for_traces_only() {
        let traced = SdkTracerProvider::builder().build();
        for level in ["info", "trace", "thali=trace"] {
            for provider in [None, Some(&traced)] {
                let subscriber = subscriber(log_filter(level).unwrap(), provider);
                tracing::dispatcher::with_default(&subscriber, || {
                    let span = tracing::info_span!(target: SPANS, "request");
                    assert_eq!(span.is_disabled(), provider.is_none(), "{level}");
                    assert!(!tracing::info_span!("other").is_disabled(), "{level}");
                });
            }
        }
    }
}
