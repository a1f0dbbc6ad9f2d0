//! `thali health`: one request, an exit status; so that an image needs no curl.

use std::{process::ExitCode, time::Duration};

use clap::Args;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use url::Url;

use super::{Outcome, output};
use crate::error::{Error, Result};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// What to ask
    #[arg(long, default_value = "http://127.0.0.1:8000/ready")]
    url: Url,
    /// Seconds to wait for the answer
    #[arg(long, default_value_t = 5.0)]
    timeout: f64,
}

pub(super) async fn run(arguments: &Arguments) -> Outcome {
    let limit = Duration::try_from_secs_f64(arguments.timeout)
        .map_err(|_| Error::invalid("the timeout must not be negative"))?;
    let status = match tokio::time::timeout(limit, status(&arguments.url)).await {
        Ok(status) => status?,
        Err(_) => {
            return Ok(unhealthy(&format!(
                "no answer from {} within {limit:?}",
                arguments.url
            )));
        }
    };
    if (200..300).contains(&status) {
        output::line(format_args!("healthy"));
        return Ok(ExitCode::SUCCESS);
    }
    Ok(unhealthy(&format!("{} answered {status}", arguments.url)))
}

fn unhealthy(reason: &str) -> ExitCode {
    output::note(format_args!("unhealthy: {reason}"));
    ExitCode::from(1)
}

/// The status code of a GET.
async fn status(url: &Url) -> Result<u16> {
    let (Some(host), Some(port), "http") = (url.host_str(), url.port_or_known_default(), url.scheme()) else {
        return Err(Error::invalid(format!("`{url}` is no http:// address")));
    };
    let unreachable = |error: std::io::Error| Error::invalid(format!("no answer from `{url}`: {error}"));
    let address = (host.trim_start_matches('[').trim_end_matches(']'), port);
    let mut stream = TcpStream::connect(address).await.map_err(unreachable)?;
    let query = url.query().map(|query| format!("?{query}")).unwrap_or_default();
    let request = format!(
        "GET {}{query} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n",
        url.path()
    );
    stream.write_all(request.as_bytes()).await.map_err(unreachable)?;
    let mut head = Vec::new();
    // The status line is all that counts; 64 KiB is more than any honest one has.
    let mut reader = stream.take(64 * 1024);
    while !head.contains(&b'\n') {
        if reader.read_buf(&mut head).await.map_err(unreachable)? == 0 {
            break;
        }
    }
    let line = String::from_utf8_lossy(&head);
    let code = line
        .strip_prefix("HTTP/1.")
        .and_then(|rest| rest.split(' ').nth(1))
        .map(str::trim);
    code.and_then(|code| code.parse().ok())
        .ok_or_else(|| Error::invalid(format!("`{url}` does not speak HTTP")))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    async fn answer(text: &'static str) -> Result<u16> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/ready?x=1", listener.local_addr().unwrap())
            .parse()
            .unwrap();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 1024];
            let read = stream.read(&mut request).await.unwrap();
            stream.write_all(text.as_bytes()).await.unwrap();
            String::from_utf8_lossy(request.get(..read).unwrap()).into_owned()
        });
        let status = status(&url).await;
        assert!(
            server
                .await
                .unwrap()
                .starts_with("GET /ready?x=1 HTTP/1.1\r\nHost: 127.0.0.1:")
        );
        status
    }

    #[tokio::test]
    async fn the_status_line_decides() {
        assert_eq!(answer("HTTP/1.1 200 OK\r\n\r\n").await.unwrap(), 200);
        assert_eq!(
            answer("HTTP/1.1 503 Service Unavailable\r\nX: y\r\n\r\n{}")
                .await
                .unwrap(),
            503
        );
        assert!(answer("SSH-2.0-x\r\n").await.is_err());
        assert!(status(&"https://localhost".parse().unwrap()).await.is_err());
    }
}
