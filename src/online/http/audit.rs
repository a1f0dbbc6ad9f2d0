//! Feast's audit log (`feast/audit/audit_logger.py`): one JSON line per request with who, what and how it
//! ended, never a value. Lines are written by a thread of their own, so no request waits for a disk.

use std::{
    fs::OpenOptions,
    io::{self, Write},
    net::SocketAddr,
    sync::mpsc::{Receiver, Sender, channel},
    time::Duration,
};

use axum::{
    extract::{ConnectInfo, Request},
    http::{HeaderMap, StatusCode},
};
use chrono::{SecondsFormat, Utc};
use serde_json::json;

use crate::{
    config::{AuditConfig, AuditSink},
    error::{Error, Result},
};

/// Writes events down as they are configured.
pub(super) struct Audit {
    successful_reads: bool,
    /// `None`: they go among the other log lines.
    lines: Option<Sender<String>>,
}

/// What is known of a request before it is answered.
pub(super) struct Asked {
    method: String,
    path: String,
    request_id: String,
    /// The caller's trace and span.
    trace: Option<(String, String)>,
    ip: String,
}

impl Audit {
    /// Opens the sink.
    ///
    /// # Errors
    /// `Config` when the file cannot be written or no thread started.
    pub(super) fn open(config: &AuditConfig) -> Result<Self> {
        let lines = match &config.sink {
            AuditSink::Log => None,
            AuditSink::Stdout => Some(spawn(Box::new(io::stdout()))?),
            AuditSink::File(path) => {
                let file = OpenOptions::new().create(true).append(true).open(path);
                let file = file.map_err(|error| {
                    Error::config(format!(
                        "audit log `{}` cannot be written: {error}",
                        path.display()
                    ))
                    .hint("check `feature_server.audit_logging.file_path`")
                })?;
                Some(spawn(Box::new(file))?)
            }
        };
        Ok(Self {
            successful_reads: config.successful_reads,
            lines,
        })
    }

    /// Notes how a request ended.
    pub(super) fn note(&self, asked: Asked, status: StatusCode, took: Duration) {
        let (resource, actions) = concerned(&asked.path);
        let failed = status.is_client_error() || status.is_server_error();
        if !failed && !self.successful_reads && actions == ["READ_ONLINE"] {
            return;
        }
        let mut event = json!({
            "event_type": "http.request",
            "timestamp": Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true),
            "request_id": asked.request_id,
            "principal": {"username": "", "roles": [], "auth_type": ""},
            "source": {"ip": asked.ip, "transport": "http"},
            "action": {"mcp_tool": "", "path": asked.path},
            "resource": {"type": resource, "name": "", "actions": actions},
            "outcome": if failed { "failure" } else { "success" },
            "duration_ms": (took.as_secs_f64() * 1e5).round() / 1e2,
            "detail": format!("{} {} -> {}", asked.method, asked.path, status.as_u16()),
        });
        if let Some((trace, span)) = asked.trace {
            event["trace_id"] = trace.into();
            event["span_id"] = span.into();
        }
        match &self.lines {
            // The writer ends only with the process.
            Some(lines) => drop(lines.send(event.to_string())),
            None => tracing::info!(target: "thali::audit", "{event}"),
        }
    }
}

impl Asked {
    /// Of a request that is about to be answered.
    pub(super) fn of(request: &Request) -> Self {
        let headers = request.headers();
        let forwarded = text(headers, "x-forwarded-for").and_then(|all| all.split(',').next());
        let peer = request.extensions().get::<ConnectInfo<SocketAddr>>();
        Self {
            method: request.method().to_string(),
            path: request.uri().path().to_owned(),
            request_id: text(headers, "x-request-id").unwrap_or_default().to_owned(),
            trace: text(headers, "traceparent").and_then(trace),
            ip: forwarded.map_or_else(
                || peer.map_or_else(String::new, |peer| peer.0.ip().to_string()),
                |ip| ip.trim().to_owned(),
            ),
        }
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

fn trace(parent: &str) -> Option<(String, String)> {
    let mut parts = parent.split('-').skip(1);
    Some((parts.next()?.to_owned(), parts.next()?.to_owned()))
}

/// What a path is about, and what is done with it.
fn concerned(path: &str) -> (&'static str, &'static [&'static str]) {
    match path {
        "/get-online-features" | "/retrieve-online-documents" | "/search" => {
            ("feature_service", &["READ_ONLINE"])
        }
        "/push" => ("push_source", &["WRITE_ONLINE", "WRITE_OFFLINE"]),
        "/write-to-online-store" | "/materialize" | "/materialize-incremental" => {
            ("feature_view", &["WRITE_ONLINE"])
        }
        _ => ("", &[]),
    }
}

fn spawn(sink: Box<dyn Write + Send>) -> Result<Sender<String>> {
    let (lines, waiting) = channel();
    std::thread::Builder::new()
        .name("audit".to_owned())
        .spawn(move || write(&waiting, sink))
        .map_err(|error| Error::config(format!("the audit log cannot be started: {error}")))?;
    Ok(lines)
}

fn write(waiting: &Receiver<String>, mut sink: Box<dyn Write + Send>) {
    let mut failing = false;
    while let Ok(line) = waiting.recv() {
        let written = writeln!(sink, "{line}").and_then(|()| sink.flush());
        if let Err(error) = &written
            && !failing
        {
            tracing::error!(%error, "the audit log cannot be written");
        }
        failing = written.is_err();
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn asked(path: &str) -> Asked {
        let request = Request::builder()
            .method("POST")
            .uri(path)
            .header("x-request-id", "r1")
            .header("x-forwarded-for", "10.0.0.1, 10.0.0.2")
            .header(
                "traceparent",
                "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            )
            .body(axum::body::Body::empty())
            .unwrap();
        Asked::of(&request)
    }

    #[test]
    fn a_line_has_feasts_form() {
        let (lines, written) = channel();
        let audit = Audit {
            successful_reads: false,
            lines: Some(lines),
        };
        let took = Duration::from_micros(1_234);
        audit.note(asked("/get-online-features"), StatusCode::OK, took);
        audit.note(asked("/get-online-features"), StatusCode::NOT_FOUND, took);
        audit.note(asked("/push"), StatusCode::OK, took);
        drop(audit);
        let written: Vec<serde_json::Value> = written
            .into_iter()
            .map(|line| serde_json::from_str(&line).unwrap())
            .collect();
        assert_eq!(written.len(), 2, "reads that were answered are left out");
        assert_eq!(written[0]["outcome"], "failure");
        assert_eq!(written[0]["detail"], "POST /get-online-features -> 404");
        assert_eq!(
            written[0]["source"],
            json!({"ip": "10.0.0.1", "transport": "http"})
        );
        assert_eq!(written[0]["trace_id"], "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(written[0]["duration_ms"], json!(1.23));
        assert_eq!(
            written[1]["resource"]["actions"],
            json!(["WRITE_ONLINE", "WRITE_OFFLINE"])
        );
    }
}
