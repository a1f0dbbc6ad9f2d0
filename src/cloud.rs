//! Object stores: which of them a URL means, and how it is reached, by the environment variables and default
//! credentials of each cloud, as Feast's own stores do. There is no other way to open one; what is kept in
//! it, and what it means when something is missing, is known where it was opened.

mod azure;
mod bucket;

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use object_store::{
    Certificate, ClientOptions, ObjectStore, ObjectStoreExt, PutMode, PutOptions, RetryConfig,
    StaticCredentialProvider, UpdateVersion,
    aws::{AmazonS3Builder, AmazonS3ConfigKey, resolve_bucket_region},
    gcp::{GcpCredential, GoogleCloudStorageBuilder},
    path::Path,
};

pub(crate) use self::bucket::Bucket;
use crate::{
    aws,
    error::{Error, Kind, Result, reason},
};

/// Which object store it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ObjectStoreKind {
    S3,
    Gcs,
    Azure,
}

impl ObjectStoreKind {
    /// The object store that a URL means; of the web's schemes only Azure's own hosts are one.
    pub(crate) fn of(url: &str) -> Option<Self> {
        let (scheme, _) = url.split_once("://")?;
        match scheme.to_ascii_lowercase().as_str() {
            "s3" | "s3a" => Some(Self::S3),
            "gs" => Some(Self::Gcs),
            "az" | "azure" | "abfs" | "abfss" => Some(Self::Azure),
            "https" if url.contains(".blob.core.windows.net/") => Some(Self::Azure),
            _ => None,
        }
    }
}

/// Environment variables that say how an object store is reached. Printed without what is in them.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Environment(BTreeMap<String, String>);

impl Environment {
    /// Those of the process's variables that object stores have to do with.
    pub fn of(variables: &BTreeMap<String, String>) -> Self {
        const PREFIXES: [&str; 3] = ["AWS_", "AZURE_", "GOOGLE_"];
        const NAMES: [&str; 7] = [
            "FEAST_S3_ENDPOINT_URL",
            "HOME",
            "IDENTITY_ENDPOINT",
            "REGISTRY_BLOB_KEY",
            "REQUESTS_CA_BUNDLE",
            "SERVICE_ACCOUNT",
            "STORAGE_EMULATOR_HOST",
        ];
        let has_to_do =
            |name: &str| NAMES.contains(&name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix));
        let set = variables
            .iter()
            .filter(|(name, value)| has_to_do(name) && !value.is_empty());
        Self(set.map(|(name, value)| (name.clone(), value.clone())).collect())
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// Variables with that prefix, in the spelling of `object_store`'s options.
    fn options<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (String, &'a str)> {
        self.0
            .iter()
            .filter(move |(name, _)| name.starts_with(prefix))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.as_str()))
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// A URL taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Address<'a> {
    kind: ObjectStoreKind,
    scheme: &'a str,
    /// What stands before the first slash: the bucket, and of Azure maybe the account or only that.
    pub(crate) host: &'a str,
    /// The account, where it is one of Azure's and the URL names it.
    account: Option<&'a str>,
    /// The bucket or container.
    pub(crate) bucket: &'a str,
    /// What is below it; empty for all of it.
    pub(crate) path: &'a str,
}

impl<'a> Address<'a> {
    /// # Errors
    /// `Config` when it names no bucket.
    pub(crate) fn of(kind: ObjectStoreKind, url: &'a str) -> Result<Self> {
        let no_bucket =
            || Error::config("the URL names no bucket").hint("for example `s3://bucket/folder/name`");
        let (scheme, rest) = url.split_once("://").ok_or_else(no_bucket)?;
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        let path = path.trim_matches('/');
        let (account, bucket, path) = match kind {
            ObjectStoreKind::Azure if is_of_web(scheme) => {
                // A query would be a signature, which Feast does not take either.
                let path = path.split_once('?').map_or(path, |(path, _)| path);
                let (account, path) = if azure::names_no_account(host) {
                    let (account, path) = path.split_once('/').unwrap_or((path, ""));
                    (Some(account), path)
                } else {
                    (azure::account_of(host), path)
                };
                let (bucket, path) = path.split_once('/').unwrap_or((path, ""));
                (account, bucket, path)
            }
            ObjectStoreKind::Azure => match host.split_once('@') {
                Some((container, host)) => (azure::account_of(host), container, path),
                None => (None, host, path),
            },
            _ => (None, host, path),
        };
        if host.is_empty() || bucket.is_empty() {
            return Err(no_bucket());
        }
        Ok(Self {
            kind,
            scheme,
            host,
            account,
            bucket,
            path,
        })
    }

    fn is_of_web(&self) -> bool {
        is_of_web(self.scheme)
    }

    /// The bucket as messages call it.
    fn place(&self) -> String {
        if self.is_of_web() {
            format!("{}://{}/{}", self.scheme, self.host, self.bucket)
        } else {
            format!("{}://{}", self.scheme, self.host)
        }
    }
}

fn is_of_web(scheme: &str) -> bool {
    matches!(scheme, "http" | "https")
}

/// Tries long enough for a hiccup, and short enough that a store that is down is soon known to be.
fn retries() -> RetryConfig {
    RetryConfig {
        max_retries: 4,
        retry_timeout: Duration::from_secs(20),
        ..RetryConfig::default()
    }
}

/// How the stores are spoken to; certificates of these files are trusted besides the system's.
fn client(environment: &Environment, bundles: &[&str]) -> Result<ClientOptions> {
    let mut client = ClientOptions::new().with_timeout(Duration::from_secs(60));
    if let Some((name, file)) = bundles
        .iter()
        .find_map(|name| Some((name, environment.get(name)?)))
    {
        let unusable = |problem: String| {
            Error::config(format!(
                "the certificates of `{file}` ({name}) cannot be used: {problem}"
            ))
        };
        let text = std::fs::read(file).map_err(|error| unusable(error.to_string()))?;
        let known = Certificate::from_pem_bundle(&text).map_err(|error| unusable(plain(&error)))?;
        for certificate in known {
            client = client.with_root_certificate(certificate);
        }
    }
    Ok(client)
}

/// Opens the object store of an address; nothing is asked of it yet. `endpoint` is an S3's own address, which
/// goes before those of the environment, and `more` what else its builder is told.
///
/// # Errors
/// `Config` when the address or an option makes no sense.
pub(crate) async fn open(
    address: &Address<'_>,
    environment: &Environment,
    endpoint: Option<&str>,
    more: impl FnOnce(AmazonS3Builder) -> AmazonS3Builder,
) -> Result<Arc<dyn ObjectStore>> {
    let refused = |error: object_store::Error| {
        Error::config(format!(
            "`{}` cannot be opened: {}",
            address.place(),
            plain(&error)
        ))
    };
    Ok(match address.kind {
        ObjectStoreKind::S3 => {
            let builder = more(s3(address.bucket, environment, endpoint).await?);
            Arc::new(builder.build().map_err(refused)?)
        }
        ObjectStoreKind::Gcs => Arc::new(gcs(address.bucket, environment)?.build().map_err(refused)?),
        ObjectStoreKind::Azure => {
            let client = client(environment, &["REQUESTS_CA_BUNDLE"])?;
            let builder = azure::builder(address, environment, client)?;
            Arc::new(builder.with_retry(retries()).build().map_err(refused)?)
        }
    })
}

async fn s3(bucket: &str, environment: &Environment, endpoint: Option<&str>) -> Result<AmazonS3Builder> {
    let (builder, mut region) = aws::identity(&environment.0);
    // As boto3 takes them.
    let client = client(environment, &["AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"])?;
    let mut builder = builder.with_retry(retries()).with_client_options(client.clone());
    let set = |name| environment.get(name);
    let endpoint = endpoint
        .or_else(|| set("AWS_ENDPOINT_URL_S3"))
        .or_else(|| set("AWS_ENDPOINT_URL"));
    if let Some(endpoint) = endpoint {
        // Arrow's file systems, and so Feast, know endpoints without a scheme.
        let endpoint = if endpoint.contains("://") {
            endpoint.to_owned()
        } else {
            format!("https://{endpoint}")
        };
        builder = builder.with_allow_http(endpoint.starts_with("http://"));
        builder = builder.with_config(AmazonS3ConfigKey::S3Endpoint, endpoint);
    } else if region.is_none() {
        // boto3 finds a bucket's region by itself; without an answer the first request tells what is wrong.
        region = resolve_bucket_region(bucket, &client).await.ok();
    }
    if let Some(region) = region {
        builder = builder.with_region(region);
    }
    Ok(builder.with_bucket_name(bucket))
}

fn gcs(bucket: &str, environment: &Environment) -> Result<GoogleCloudStorageBuilder> {
    let options = client(environment, &["REQUESTS_CA_BUNDLE"])?.with_allow_http(true);
    let mut builder = GoogleCloudStorageBuilder::new()
        .with_retry(retries())
        .with_client_options(options);
    // For Google's own clients it goes before all credentials, of which an emulator knows none.
    if let Some(host) = environment.get("STORAGE_EMULATOR_HOST") {
        let host = host.trim_end_matches('/');
        let url = if host.contains("://") {
            host.to_owned()
        } else {
            format!("http://{host}")
        };
        let nobody = GcpCredential {
            bearer: String::new(),
        };
        return Ok(builder
            .with_base_url(&url)
            .with_credentials(Arc::new(StaticCredentialProvider::new(nobody)))
            .with_bucket_name(bucket));
    }
    if let Some(path) = environment.get("SERVICE_ACCOUNT") {
        builder = builder.with_service_account_path(path);
    }
    for (name, value) in environment.options("GOOGLE_") {
        if let Ok(key) = name.parse() {
            builder = builder.with_config(key, value);
        }
    }
    Ok(builder.with_bucket_name(bucket))
}

/// What it means that a store refused or failed, in words without anything secret.
pub(crate) fn explained(bucket: &str, error: &object_store::Error) -> Error {
    const NO_BUCKET: [&str; 3] = ["NoSuchBucket", "ContainerNotFound", "FilesystemNotFound"];
    let text = plain(error);
    if NO_BUCKET.iter().any(|code| text.contains(code)) {
        return Error::config(format!("the bucket `{bucket}` does not exist"))
            .hint("create the bucket, or correct its name");
    }
    // A list that is forbidden is an error of no particular kind.
    let told = error.to_string();
    let is_forbidden = ["status code: 401", "status code: 403"]
        .iter()
        .any(|code| told.contains(code));
    match error {
        _ if is_forbidden => forbidden(bucket, &text),
        object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. } => {
            forbidden(bucket, &text)
        }
        object_store::Error::Precondition { path, .. } => Error::new(
            Kind::Conflict,
            format!("`{path}` of the bucket `{bucket}` was changed meanwhile"),
        )
        .hint("try again"),
        _ => Error::unavailable(format!("the bucket `{bucket}` cannot be used: {text}")),
    }
}

fn forbidden(bucket: &str, text: &str) -> Error {
    Error::config(format!("access to the bucket `{bucket}` is forbidden: {text}")).hint(
        "the credentials need to list and read objects there, and to write them where rows are written; \
         without the right to list, a missing object cannot be told from a forbidden one",
    )
}

/// Whether the object was not the expected one.
pub(crate) fn is_lost(error: &object_store::Error) -> bool {
    use object_store::Error::{AlreadyExists, NotModified, Precondition};
    matches!(
        error,
        AlreadyExists { .. } | Precondition { .. } | NotModified { .. }
    )
}

/// Whether a store keeps the conditions of writes. Some that are made like S3 ignore conditions that they do
/// not know; writing through them would lose changes without a word, so that it is tried with the object
/// `probe`, which does not matter.
///
/// # Errors
/// What the store says when it cannot be written at all.
pub(crate) async fn keeps_conditions(
    store: &dyn ObjectStore,
    probe: &Path,
    options: &PutOptions,
) -> Result<bool, object_store::Error> {
    let write = |mode| {
        let options = PutOptions {
            mode,
            ..options.clone()
        };
        let content = Bytes::from_static(b"does this store keep conditions?");
        store.put_opts(probe, content.into(), options)
    };
    let created = write(PutMode::Create).await?;
    let other = UpdateVersion {
        e_tag: Some("\"00000000000000000000000000000000\"".to_owned()),
        version: created.version.map(|version| format!("{version}1")),
    };
    let mut keeps = true;
    for mode in [PutMode::Create, PutMode::Update(other)] {
        match write(mode).await {
            Ok(_) => keeps = false,
            Err(error) if is_lost(&error) => {}
            Err(error) => return Err(error),
        }
    }
    if let Err(error) = store.delete(probe).await {
        tracing::debug!(object = %probe, error = %plain(&error), "cannot remove a probe");
    }
    Ok(keeps)
}

/// The error on one line without anything secret: answers of S3 repeat what was signed, URLs of Azure
/// carry signatures.
pub(crate) fn plain(error: &object_store::Error) -> String {
    let text = error.to_string();
    let element = |name: &str| {
        let (_, after) = text.split_once(&format!("<{name}>"))?;
        let (content, _) = after.split_once(&format!("</{name}>"))?;
        Some(content)
    };
    if let Some(code) = element("Code") {
        return match element("Message").and_then(|message| message.lines().next()) {
            Some(message) if !message.is_empty() => format!("{code}: {message}"),
            _ => code.to_owned(),
        };
    }
    // What lies underneath says why; what is around it, how often it was tried.
    let mut plain = String::new();
    for word in reason(error).split_whitespace() {
        if !plain.is_empty() {
            plain.push(' ');
        }
        let is_url = word.contains("://");
        plain.push_str(
            word.split_once('?')
                .filter(|_| is_url)
                .map_or(word, |(url, _)| url),
        );
    }
    plain
}

#[cfg(test)]
pub(crate) mod fake;
#[cfg(test)]
mod tests;
