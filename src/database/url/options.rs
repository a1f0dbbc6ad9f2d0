//! The options of Python's drivers, from the query of a URL or from `connect_args`, in sqlx's words.

use std::time::Duration;

use super::{DatabaseUrl, Place, port_number};
use crate::error::{Error, Result};

impl DatabaseUrl {
    fn set(&mut self, key: &'static str, value: impl Into<String>) {
        self.options.retain(|(known, _)| *known != key);
        self.options.push((key, value.into()));
    }

    fn ignored(&mut self, key: &str) {
        self.warnings.push(format!(
            "option `{key}` of the database URL means nothing to thali"
        ));
    }

    fn timeout(&mut self, key: &str, value: &str) -> Result<()> {
        let seconds = value.trim().parse::<f64>().ok().filter(|seconds| *seconds >= 0.0);
        let span = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        let span =
            span.ok_or_else(|| Error::config(format!("`{key}` wants a number of seconds, not `{value}`")))?;
        self.connect_timeout = Some(span).filter(|span| !span.is_zero());
        Ok(())
    }

    pub(super) fn sqlite_option(&mut self, key: &str, value: &str) -> Result<()> {
        match key {
            "timeout" => self.timeout(key, value)?,
            "mode" => match value {
                "ro" => self.set("mode", "ro"),
                "rw" | "rwc" => {}
                _ => return Err(wrong_word(key, value, "ro, rw, rwc")),
            },
            // How Python's driver may be used from threads, and whether the name is a `file:` URI.
            "check_same_thread" | "uri" | "cached_statements" | "detect_types" | "isolation_level"
            | "autocommit" => {}
            _ => self.ignored(key),
        }
        Ok(())
    }

    pub(super) fn postgres_option(&mut self, key: &str, value: &str) -> Result<()> {
        const MODES: &str = "disable, allow, prefer, require, verify-ca, verify-full";
        match key {
            "sslmode" | "ssl" => match value.to_ascii_lowercase().as_str() {
                "true" | "1" => self.set("sslmode", "require"),
                "false" | "0" => self.set("sslmode", "disable"),
                mode if MODES.split(", ").any(|known| known == mode) => self.set("sslmode", mode),
                _ => return Err(wrong_word(key, value, MODES)),
            },
            "requiressl" if value == "1" => self.set("sslmode", "require"),
            // The system's certificates are known anyway.
            "sslrootcert" if value == "system" => self.set("sslmode", "verify-full"),
            "sslrootcert" => self.set("sslrootcert", value),
            "sslcert" => self.set("sslcert", value),
            "sslkey" => self.set("sslkey", value),
            "application_name" | "fallback_application_name" => self.set("application_name", value),
            "options" => self.set("options", value),
            "connect_timeout" | "timeout" => self.timeout(key, value)?,
            // Asked for by those who connect through a pooler that forgets prepared statements.
            "prepare_threshold" if matches!(value.to_ascii_lowercase().as_str(), "none" | "null" | "") => {
                self.set("statement-cache-capacity", "0");
            }
            "prepared_statement_cache_size" | "statement_cache_size" if value == "0" => {
                self.set("statement-cache-capacity", "0");
            }
            "host" | "hostaddr" | "port" | "user" | "password" | "dbname" | "database" => {
                self.server_option(key, value)?;
            }
            "requiressl"
            | "prepare_threshold"
            | "prepared_statement_cache_size"
            | "statement_cache_size"
            | "keepalives"
            | "keepalives_idle"
            | "keepalives_interval"
            | "keepalives_count"
            | "tcp_user_timeout"
            | "client_encoding"
            | "gssencmode"
            | "autocommit" => {}
            _ => self.ignored(key),
        }
        Ok(())
    }

    pub(super) fn mysql_option(&mut self, key: &str, value: &str) -> Result<()> {
        const MODES: &str = "DISABLED, PREFERRED, REQUIRED, VERIFY_CA, VERIFY_IDENTITY";
        let on = matches!(value.to_ascii_lowercase().as_str(), "true" | "1" | "yes" | "on");
        // Asking for one check must not take back a stricter one.
        let strictness = |mode: &str| MODES.split(", ").position(|known| known == mode);
        let at_least = |url: &mut Self, mode: &str| {
            let present = url.options.iter().find(|(key, _)| *key == "ssl-mode");
            if present.is_none_or(|(_, present)| strictness(present) < strictness(mode)) {
                url.set("ssl-mode", mode);
            }
        };
        match key {
            "ssl_mode" | "ssl-mode" | "sslmode" => {
                let mode = value.to_ascii_uppercase().replace('-', "_");
                if strictness(&mode).is_none() {
                    return Err(wrong_word(key, value, MODES));
                }
                self.set("ssl-mode", mode);
            }
            "ssl_ca" | "ssl-ca" => {
                self.set("ssl-ca", value);
                at_least(self, "VERIFY_CA");
            }
            "ssl_cert" | "ssl-cert" => self.set("ssl-cert", value),
            "ssl_key" | "ssl-key" => self.set("ssl-key", value),
            "ssl_verify_cert" if on => at_least(self, "VERIFY_CA"),
            "ssl_verify_identity" | "ssl_check_hostname" if on => at_least(self, "VERIFY_IDENTITY"),
            "ssl_disabled" if on => self.set("ssl-mode", "DISABLED"),
            "ssl" if on => at_least(self, "REQUIRED"),
            "unix_socket" => self.set("socket", value),
            "connect_timeout" | "connection_timeout" => self.timeout(key, value)?,
            "host" | "port" | "user" | "password" | "passwd" | "database" | "db" => {
                self.server_option(key, value)?;
            }
            // thali always speaks utf8mb4; the server converts what tables keep otherwise.
            "charset"
            | "collation"
            | "use_unicode"
            | "autocommit"
            | "local_infile"
            | "binary_prefix"
            | "ssl_verify_cert"
            | "ssl_verify_identity"
            | "ssl_check_hostname"
            | "ssl_disabled"
            | "ssl"
            | "read_timeout"
            | "write_timeout" => {}
            _ => self.ignored(key),
        }
        Ok(())
    }

    fn server_option(&mut self, key: &str, value: &str) -> Result<()> {
        let mut several = None;
        if let Place::Server(server) = &mut self.place {
            match key {
                "host" | "hostaddr" => {
                    let (first, rest) = value.split_once(',').unwrap_or((value, ""));
                    several = (!rest.is_empty()).then(|| first.to_owned());
                    // SQLAlchemy writes several hosts as `host=a:1`.
                    let (host, port) = match first.rsplit_once(':') {
                        Some((host, port)) if !host.contains(':') => (host, Some(port)),
                        _ => (first, None),
                    };
                    server.host = Some(host.to_owned());
                    if let Some(port) = port {
                        server.port = Some(port_number(port)?);
                    }
                }
                "port" => server.port = Some(port_number(value)?),
                "user" => server.user = Some(value.to_owned()),
                "password" | "passwd" => server.password = Some(value.to_owned()),
                _ => server.database = Some(value.to_owned()),
            }
        }
        if let Some(first) = several {
            self.warnings.push(format!(
                "of several database hosts only the first is used, `{first}`"
            ));
        }
        Ok(())
    }
}

fn wrong_word(key: &str, value: &str, words: &str) -> Error {
    Error::config(format!("`{key}` cannot be `{value}`")).hint(format!("one of {words}"))
}
