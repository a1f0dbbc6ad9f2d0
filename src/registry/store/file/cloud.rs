//! The object store behind a registry's URL, found and reached as Feast's S3, GCS and Azure registry
//! stores do: by the environment variables and default credentials of each cloud.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use base64::{Engine, prelude::BASE64_STANDARD};
use object_store::{
    Attribute, Attributes, ClientOptions, ObjectStore, RetryConfig, TagSet,
    aws::{AmazonS3Builder, AmazonS3ConfigKey, resolve_bucket_region},
    azure::MicrosoftAzureBuilder,
    gcp::GoogleCloudStorageBuilder,
    path::Path,
};

use super::object::{ObjectPlace, plain};
use crate::{
    aws,
    error::{Error, Result},
};

/// Which object store it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ObjectStoreKind {
    S3,
    Gcs,
    Azure,
}

/// A registry file in an object store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectRegistry {
    pub store: ObjectStoreKind,
    /// As it was written, such as `s3://bucket/registry.db`.
    pub url: String,
    /// `s3_additional_kwargs`: what boto3 is told when it writes, such as `ServerSideEncryption`.
    pub options: BTreeMap<String, String>,
    pub environment: Environment,
}

/// Environment variables that say how an object store is reached. Printed without what is in them.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Environment(BTreeMap<String, String>);

impl Environment {
    /// Those of the process's variables that object stores have to do with.
    pub fn of(variables: &BTreeMap<String, String>) -> Self {
        const PREFIXES: [&str; 3] = ["AWS_", "AZURE_", "GOOGLE_"];
        const NAMES: [&str; 5] = [
            "FEAST_S3_ENDPOINT_URL",
            "HOME",
            "IDENTITY_ENDPOINT",
            "REGISTRY_BLOB_KEY",
            "SERVICE_ACCOUNT",
        ];
        let has_to_do =
            |name: &str| NAMES.contains(&name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix));
        let set = variables
            .iter()
            .filter(|(name, value)| has_to_do(name) && !value.is_empty());
        Self(set.map(|(name, value)| (name.clone(), value.clone())).collect())
    }

    fn get(&self, name: &str) -> Option<&str> {
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
#[derive(Debug, PartialEq, Eq)]
struct Location<'a> {
    scheme: &'a str,
    /// The bucket, or the host where the container is in the path.
    host: &'a str,
    path: &'a str,
}

impl<'a> Location<'a> {
    fn of(url: &'a str) -> Result<Self> {
        let parts = url.split_once("://").and_then(|(scheme, rest)| {
            let (host, path) = rest.split_once('/')?;
            // A query would be a signature, which Feast does not take either.
            let path = path
                .split_once('?')
                .map_or(path, |(path, _)| path)
                .trim_matches('/');
            (!host.is_empty() && !path.is_empty()).then_some(Self { scheme, host, path })
        });
        parts.ok_or_else(|| {
            Error::config("the URL of the registry has no bucket or no name of a file")
                .hint("for example `s3://bucket/feast/registry.db`")
        })
    }
}

/// Tries long enough for a hiccup, and short enough that a store that is down is soon known to be.
fn retries() -> RetryConfig {
    RetryConfig {
        max_retries: 4,
        retry_timeout: Duration::from_secs(20),
        ..RetryConfig::default()
    }
}

fn client() -> ClientOptions {
    ClientOptions::new().with_timeout(Duration::from_secs(60))
}

/// The place that is configured.
///
/// # Errors
/// `Config` when the URL or an option makes no sense.
pub(super) async fn open(registry: &ObjectRegistry) -> Result<ObjectPlace> {
    let environment = &registry.environment;
    let location = Location::of(&registry.url)?;
    let name = registry
        .url
        .split_once('?')
        .map_or(registry.url.as_str(), |(url, _)| url);
    let refused = |error: object_store::Error| {
        Error::config(format!("registry `{name}` cannot be opened: {}", plain(&error)))
    };
    let (bucket, path, store, written): (_, _, Arc<dyn ObjectStore>, _) = match registry.store {
        ObjectStoreKind::S3 => {
            let mut written = Written::default();
            let builder = s3(location.host, environment).await;
            let builder = s3_options(builder, &registry.options, &mut written);
            (
                location.host,
                location.path,
                Arc::new(builder.build().map_err(refused)?),
                written,
            )
        }
        ObjectStoreKind::Gcs => {
            let store = gcs(location.host, environment).build().map_err(refused)?;
            (location.host, location.path, Arc::new(store), Written::default())
        }
        ObjectStoreKind::Azure => {
            let (builder, container, path) = azure(&location, environment)?;
            (
                container,
                path,
                Arc::new(builder.build().map_err(refused)?),
                Written::default(),
            )
        }
    };
    let key = Path::parse(path)
        .map_err(|error| Error::config(format!("`{path}` cannot be the name of an object: {error}")))?;
    let place = ObjectPlace::new(name.to_owned(), bucket.to_owned(), store, key);
    Ok(place.with(written.attributes, written.tags))
}

async fn s3(bucket: &str, environment: &Environment) -> AmazonS3Builder {
    let (builder, mut region) = aws::identity(&environment.0);
    let mut builder = builder.with_retry(retries()).with_client_options(client());
    let set = |name| environment.get(name);
    let endpoint = set("FEAST_S3_ENDPOINT_URL")
        .or_else(|| set("AWS_ENDPOINT_URL_S3"))
        .or_else(|| set("AWS_ENDPOINT_URL"));
    if let Some(endpoint) = endpoint {
        builder = builder
            .with_config(AmazonS3ConfigKey::S3Endpoint, endpoint)
            .with_allow_http(endpoint.starts_with("http://"));
    } else if region.is_none() {
        // boto3 finds a bucket's region by itself; without an answer the first request tells what is wrong.
        region = resolve_bucket_region(bucket, &client()).await.ok();
    }
    if let Some(region) = region {
        builder = builder.with_region(region);
    }
    builder.with_bucket_name(bucket)
}

/// What objects are written with.
#[derive(Default)]
struct Written {
    attributes: Attributes,
    tags: TagSet,
}

/// Does what `s3_additional_kwargs` ask for, and says which of them it cannot.
fn s3_options(
    mut builder: AmazonS3Builder,
    options: &BTreeMap<String, String>,
    written: &mut Written,
) -> AmazonS3Builder {
    let attribute = |name: &str| match name {
        "CacheControl" => Some(Attribute::CacheControl),
        "ContentDisposition" => Some(Attribute::ContentDisposition),
        "ContentEncoding" => Some(Attribute::ContentEncoding),
        "ContentLanguage" => Some(Attribute::ContentLanguage),
        "ContentType" => Some(Attribute::ContentType),
        "StorageClass" => Some(Attribute::StorageClass),
        _ => None,
    };
    for (name, value) in options {
        if let Some(attribute) = attribute(name) {
            written.attributes.insert(attribute, value.clone().into());
            continue;
        }
        let (option, value) = match name.as_str() {
            "ServerSideEncryption" => ("aws_server_side_encryption", value.clone()),
            "SSEKMSKeyId" => ("aws_sse_kms_key_id", value.clone()),
            "BucketKeyEnabled" => ("aws_sse_bucket_key_enabled", value.to_ascii_lowercase()),
            "SSECustomerKey" => {
                builder = with(builder, "aws_server_side_encryption", "sse-c");
                ("aws_sse_customer_key_base64", BASE64_STANDARD.encode(value))
            }
            "SSECustomerAlgorithm" if value == "AES256" => continue,
            "RequestPayer" => ("aws_request_payer", (value == "requester").to_string()),
            "Tagging" => {
                for (key, value) in url::form_urlencoded::parse(value.as_bytes()) {
                    written.tags.push(&key, &value);
                }
                continue;
            }
            other => {
                tracing::warn!(
                    "`{other}` of registry.s3_additional_kwargs is not supported and has no effect"
                );
                continue;
            }
        };
        builder = with(builder, option, &value);
    }
    builder
}

fn with(builder: AmazonS3Builder, option: &str, value: &str) -> AmazonS3Builder {
    match option.parse() {
        Ok(key) => builder.with_config(key, value),
        Err(_) => builder,
    }
}

fn gcs(bucket: &str, environment: &Environment) -> GoogleCloudStorageBuilder {
    let options = client().with_allow_http(true);
    let mut builder = GoogleCloudStorageBuilder::new()
        .with_retry(retries())
        .with_client_options(options);
    if let Some(path) = environment.get("SERVICE_ACCOUNT") {
        builder = builder.with_service_account_path(path);
    }
    for (name, value) in environment.options("GOOGLE_") {
        if let Ok(key) = name.parse() {
            builder = builder.with_config(key, value);
        }
    }
    builder.with_bucket_name(bucket)
}

/// The builder with the container and the path in it.
fn azure<'a>(
    location: &Location<'a>,
    environment: &Environment,
) -> Result<(MicrosoftAzureBuilder, &'a str, &'a str)> {
    let mut builder = MicrosoftAzureBuilder::new()
        .with_retry(retries())
        .with_client_options(client());
    for (name, value) in environment
        .options("AZURE_")
        .chain(environment.options("IDENTITY_ENDPOINT"))
    {
        if name == "identity_endpoint" {
            builder = builder.with_msi_endpoint(value);
        } else if let Ok(key) = name.parse() {
            builder = builder.with_config(key, value);
        }
    }
    // As Feast calls it.
    if let Some(key) = environment.get("REGISTRY_BLOB_KEY") {
        builder = builder.with_access_key(key);
    }
    let (container, path) = match location.scheme {
        "http" | "https" => {
            let account = location.host.split(['.', ':']).next().unwrap_or_default();
            builder = builder.with_account(account);
            if !location.host.ends_with(".blob.core.windows.net") {
                builder = builder
                    .with_endpoint(format!("{}://{}", location.scheme, location.host))
                    .with_allow_http(location.scheme == "http");
            }
            location.path.split_once('/').ok_or_else(|| {
                Error::config("the URL of the registry has no container or no name of a file")
                    .hint("for example `https://account.blob.core.windows.net/container/registry.db`")
            })?
        }
        _ => match location.host.split_once('@') {
            Some((container, host)) => {
                builder = builder.with_account(host.split('.').next().unwrap_or_default());
                (container, location.path)
            }
            None => (location.host, location.path),
        },
    };
    Ok((builder.with_container_name(container), container, path))
}

#[cfg(test)]
mod tests;
