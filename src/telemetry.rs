//! Log and traces of the process: set up once at start. Nothing is exported unless a collector is named.

use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::WithExportConfig as _;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing_subscriber::{EnvFilter, Layer as _, layer::SubscriberExt as _, util::SubscriberInitExt as _};

use crate::error::{Error, Result};

/// Keeps the trace exporter; [`Telemetry::shutdown`] sends what it still holds.
#[derive(Debug, Default)]
pub struct Telemetry {
    traces: Option<SdkTracerProvider>,
}

/// Sets up logging to standard error at `level` (`RUST_LOG` syntax) and, with an OTLP/gRPC `endpoint`,
/// traces. Must run inside the runtime.
///
/// # Errors
/// `Config` when the level or the endpoint is malformed.
pub fn start(level: &str, endpoint: Option<&str>) -> Result<Telemetry> {
    // The ticker reports its own start-up as information.
    let filter = EnvFilter::try_new(format!("{level},tokio_cron_scheduler=warn")).map_err(|error| {
        Error::config(format!("`{level}` is no log level: {error}"))
            .hint("use error, warn, info, debug or trace")
    })?;
    let log = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_filter(filter);
    let traces = endpoint.map(tracer).transpose()?;
    let spans = traces.as_ref().map(|provider| {
        tracing_opentelemetry::layer()
            .with_tracer(provider.tracer("thali"))
            .with_filter(EnvFilter::new("thali=info"))
    });
    // A second start (tests) keeps the first subscriber.
    if let Err(error) = tracing_subscriber::registry().with(log).with(spans).try_init() {
        tracing::debug!(%error, "telemetry was set up before");
    }
    Ok(Telemetry { traces })
}

fn tracer(endpoint: &str) -> Result<SdkTracerProvider> {
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_tonic()
        .with_endpoint(endpoint)
        .build()
        .map_err(|error| Error::config(format!("traces cannot be sent to `{endpoint}`: {error}")))?;
    let resource = opentelemetry_sdk::Resource::builder()
        .with_service_name("thali")
        .build();
    Ok(SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_resource(resource)
        .build())
}

impl Telemetry {
    /// Sends what is still held and stops.
    pub fn shutdown(self) {
        if let Some(Err(error)) = self.traces.map(|provider| provider.shutdown()) {
            tracing::warn!(%error, "the last traces could not be sent");
        }
    }
}
