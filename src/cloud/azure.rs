//! How an account of Azure is reached: as the URL says, and as the environment tells its own clients, the `az`
//! command and adlfs.

use std::collections::BTreeMap;

use object_store::{
    ClientOptions,
    azure::{AzureConfigKey, MicrosoftAzureBuilder},
};

use super::{Address, Environment};
use crate::error::{Error, Result};

const CONNECTION: &str = "AZURE_STORAGE_CONNECTION_STRING";
/// The end of the names of Azure's own hosts.
const HOSTS: &str = ".blob.core.windows.net";

/// What is known of a container before anything is asked of it.
///
/// # Errors
/// `Config` when the connection string makes no sense.
pub(super) fn builder(
    address: &Address<'_>,
    environment: &Environment,
    client: ClientOptions,
) -> Result<MicrosoftAzureBuilder> {
    let mut builder = MicrosoftAzureBuilder::new().with_client_options(client);
    // With adlfs it goes before every other variable; of another account than the URL's it says nothing.
    let connection = environment.get(CONNECTION).map(Connection::of).transpose()?;
    let connection =
        connection.filter(|known| address.account.is_none_or(|account| account == known.account));
    for (name, value) in environment
        .options("AZURE_")
        .chain(environment.options("IDENTITY_ENDPOINT"))
    {
        let key = match name.as_str() {
            "identity_endpoint" => Ok(AzureConfigKey::MsiEndpoint),
            // As `az` calls them.
            "azure_storage_account" => Ok(AzureConfigKey::AccountName),
            "azure_storage_key" => Ok(AzureConfigKey::AccessKey),
            name => name.parse(),
        };
        if let Ok(key) = key
            && (connection.is_none() || matches!(key, AzureConfigKey::Client(_)))
        {
            builder = builder.with_config(key, value);
        }
    }
    if let Some(known) = &connection {
        builder = known.tell(builder);
    }
    // Feast's key of the account that has the registry, which is always given by a URL of the web.
    let has_key = connection.is_some() || builder.get_config_value(&AzureConfigKey::AccessKey).is_some();
    if let Some(key) = environment.get("REGISTRY_BLOB_KEY")
        && (address.is_of_web() || !has_key)
    {
        builder = builder.with_access_key(key);
    }
    if let Some(account) = address.account {
        builder = builder.with_account(account);
    }
    if address.is_of_web() && !address.host.ends_with(HOSTS) {
        let mut endpoint = format!("{}://{}", address.scheme, address.host);
        if let Some(account) = address.account.filter(|_| names_no_account(address.host)) {
            endpoint = format!("{endpoint}/{account}");
        }
        builder = at(builder, endpoint);
    }
    Ok(builder.with_container_name(address.bucket))
}

fn at(builder: MicrosoftAzureBuilder, endpoint: String) -> MicrosoftAzureBuilder {
    let builder = builder.with_allow_http(endpoint.starts_with("http://"));
    builder.with_endpoint(endpoint)
}

/// Whether a host is one of those, such as the emulator's, where the account comes first in the path.
pub(super) fn names_no_account(host: &str) -> bool {
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    name == "localhost" || name.starts_with('[') || name.parse::<std::net::Ipv4Addr>().is_ok()
}

/// The account that the name of a host begins with.
pub(super) fn account_of(host: &str) -> Option<&str> {
    let account = host.split(['.', ':']).next();
    account.filter(|account| !account.is_empty())
}

/// A connection string taken apart.
struct Connection<'a> {
    account: &'a str,
    endpoint: String,
    key: Option<&'a str>,
    signature: Option<&'a str>,
}

impl<'a> Connection<'a> {
    fn of(text: &'a str) -> Result<Self> {
        let wrong = |problem| {
            Error::config(format!("{CONNECTION} {problem}")).hint(
                "for example `DefaultEndpointsProtocol=https;AccountName=…;AccountKey=…;EndpointSuffix=core.windows.net`",
            )
        };
        let mut parts = BTreeMap::new();
        for part in text.split(';').filter(|part| !part.trim().is_empty()) {
            let (name, value) = part
                .split_once('=')
                .ok_or_else(|| wrong("has a part without `=`"))?;
            parts.insert(name.trim().to_ascii_lowercase(), value.trim());
        }
        let get = |name| parts.get(name).copied();
        let (key, signature) = (get("accountkey"), get("sharedaccesssignature"));
        if key.is_none() && signature.is_none() {
            return Err(wrong("has neither `AccountKey` nor `SharedAccessSignature`"));
        }
        let endpoint = get("blobendpoint").map(|endpoint| endpoint.trim_end_matches('/'));
        // With a signature, Azure's own strings name the account in the endpoint only.
        let named = || {
            let (_, rest) = endpoint?.split_once("://")?;
            match rest.split_once('/') {
                Some((host, path)) if names_no_account(host) => path.split('/').next(),
                _ => account_of(rest),
            }
        };
        let account = get("accountname").or_else(named);
        let account = account.ok_or_else(|| wrong("has no `AccountName`"))?;
        let endpoint = endpoint.map_or_else(
            || {
                let protocol = get("defaultendpointsprotocol").unwrap_or("https");
                let suffix = get("endpointsuffix").unwrap_or("core.windows.net");
                format!("{protocol}://{account}.blob.{suffix}")
            },
            str::to_owned,
        );
        Ok(Self {
            account,
            endpoint,
            key,
            signature,
        })
    }

    fn tell(&self, builder: MicrosoftAzureBuilder) -> MicrosoftAzureBuilder {
        let builder = at(builder.with_account(self.account), self.endpoint.clone());
        match (self.key, self.signature) {
            (Some(key), _) => builder.with_access_key(key),
            (None, Some(signature)) => builder.with_config(AzureConfigKey::SasKey, signature),
            (None, None) => builder,
        }
    }
}
