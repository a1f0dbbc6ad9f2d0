//! Who this process is to Amazon's services: credentials and region, found where Amazon's own tools look.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};

/// A builder that knows the credentials, and the region if one is set. What is not found here is asked of
/// the machine's metadata service when it is needed.
///
/// Looked at are variables, web identities, containers, and the keys of a profile in the credentials file.
pub(crate) fn identity(variables: &BTreeMap<String, String>) -> (AmazonS3Builder, Option<String>) {
    let set = |name: &str| variables.get(name).map(String::as_str);
    let mut builder = AmazonS3Builder::new();
    for (name, value) in variables.iter().filter(|(name, _)| name.starts_with("AWS_")) {
        if let Ok(key) = name.to_ascii_lowercase().parse() {
            builder = builder.with_config(key, value);
        }
    }
    let has_identity = [
        "AWS_ACCESS_KEY_ID",
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    ]
    .into_iter()
    .any(|name| set(name).is_some());
    let mut region = set("AWS_REGION")
        .or_else(|| set("AWS_DEFAULT_REGION"))
        .map(str::to_owned);
    if !has_identity && let Some(text) = credentials_file(set) {
        let profile = set("AWS_PROFILE").unwrap_or("default");
        for (name, value) in profile_settings(&text, profile) {
            if name == "region" {
                region.get_or_insert_with(|| value.to_owned());
            } else if let Ok(
                key @ (AmazonS3ConfigKey::AccessKeyId
                | AmazonS3ConfigKey::SecretAccessKey
                | AmazonS3ConfigKey::Token),
            ) = name.parse()
            {
                builder = builder.with_config(key, value);
            }
        }
    }
    (builder, region)
}

/// The file where the tools of AWS keep keys.
fn credentials_file<'a>(set: impl Fn(&str) -> Option<&'a str>) -> Option<String> {
    let path = match set("AWS_SHARED_CREDENTIALS_FILE") {
        Some(path) => PathBuf::from(path),
        None => Path::new(set("HOME")?).join(".aws/credentials"),
    };
    std::fs::read_to_string(path).ok()
}

/// `name = value` lines of a section.
fn profile_settings<'a>(text: &'a str, profile: &str) -> Vec<(&'a str, &'a str)> {
    let header = format!("[{profile}]");
    text.lines()
        .map(str::trim)
        .skip_while(|line| *line != header)
        .skip(1)
        .take_while(|line| !line.starts_with('['))
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.trim(), value.trim()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_from_the_profile_that_is_named() {
        let text =
            "[default]\naws_access_key_id = one\n[other]\n aws_access_key_id=two\nregion = eu-west-1\n";
        assert_eq!(profile_settings(text, "default"), [("aws_access_key_id", "one")]);
        assert_eq!(
            profile_settings(text, "other"),
            [("aws_access_key_id", "two"), ("region", "eu-west-1")]
        );
        assert!(profile_settings(text, "none").is_empty());
    }
}
