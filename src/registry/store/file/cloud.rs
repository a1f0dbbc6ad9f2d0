//! A registry file in an object store: its URL and what Feast's `s3_additional_kwargs` ask for when it is
//! written. How the store is reached is the business of [`crate::cloud`].

use std::collections::BTreeMap;

use base64::{Engine, prelude::BASE64_STANDARD};
use object_store::{Attribute, Attributes, TagSet, aws::AmazonS3Builder, path::Path};

use super::object::ObjectPlace;
use crate::{
    cloud::{self, Address, Environment, ObjectStoreKind},
    error::{Error, Result},
};

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

/// The place that is configured.
///
/// # Errors
/// `Config` when the URL or an option makes no sense.
pub(super) async fn open(registry: &ObjectRegistry) -> Result<ObjectPlace> {
    // A query would be a signature, which Feast does not take either.
    let url = registry
        .url
        .split_once('?')
        .map_or(registry.url.as_str(), |(url, _)| url);
    let address = address(registry.store, url)?;
    let environment = &registry.environment;
    let mut written = Written::default();
    let store = cloud::open(
        &address,
        environment,
        environment.get("FEAST_S3_ENDPOINT_URL"),
        |builder| s3_options(builder, &registry.options, &mut written),
    );
    let store = store
        .await
        .map_err(|error| error.context(format!("registry `{url}`")))?;
    let key = Path::parse(address.path).map_err(|error| {
        Error::config(format!(
            "`{}` cannot be the name of an object: {error}",
            address.path
        ))
    })?;
    let place = ObjectPlace::new(url.to_owned(), address.bucket.to_owned(), store, key);
    Ok(place.with(written.attributes, written.tags))
}

fn address(store: ObjectStoreKind, url: &str) -> Result<Address<'_>> {
    let example = match store {
        ObjectStoreKind::Azure => "for example `https://account.blob.core.windows.net/container/registry.db`",
        _ => "for example `s3://bucket/feast/registry.db`",
    };
    match Address::of(store, url) {
        Ok(address) if !address.path.is_empty() => Ok(address),
        _ => Err(Error::config("the URL of the registry has no bucket or no name of a file").hint(example)),
    }
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

#[cfg(test)]
mod tests;
