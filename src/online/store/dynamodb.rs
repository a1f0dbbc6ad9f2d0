//! [`DynamoStore`]: the DynamoDB online store in Feast's layout (`feast/infra/online_stores/dynamodb.py`).
//!
//! One table per view, one item per entity: `entity_id` (a hash of the key), `event_ts` (text) and
//! `values`, a map of encoded values. Differences from Feast's own store: what DynamoDB did not get to is
//! asked for again, a row never goes back in event time, and a write of some of a view's features keeps the
//! others.
//!
//! The hash cannot be turned back, so items have one attribute more, `entity_key`, which Feast does not look
//! at: the serialized key itself. Of items that Feast wrote last the keys cannot be listed.

mod client;
mod item;
mod read;
mod tables;
mod write;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _, stream};
use serde_json::json;

use self::client::Client;
use super::{OlderRow, OnlineRead, OnlineStore, RowBatch, StoreKind, Table, WriteBatch, kind::Opening};
use crate::{
    config::schema::{Kind as Holds, Schema, Unknown, accepted, missing, only, used},
    error::{Error, Result},
    model::{FeatureView, entity_key},
    proto::feast::core::{
        InfraObject,
        infra_object::{CustomInfra, InfraObject as Inner},
    },
};

/// The most keys DynamoDB takes in one read.
const KEYS_PER_READ: usize = 100;

/// Items that are written or deleted at the same time.
const WRITERS: usize = 16;

/// The `dynamodb` type.
pub static KIND: StoreKind = StoreKind {
    name: "dynamodb",
    schema: &SCHEMA,
    open: |opening| {
        Box::pin(async move { Ok(Arc::new(DynamoStore::open(&opening)?) as Arc<dyn OnlineStore>) })
    },
};

static SCHEMA: Schema = Schema {
    unknown: Unknown::Refused,
    keys: &[
        used("type", Holds::Text, Some("dynamodb")),
        used("region", Holds::Text, None),
        used("endpoint_url", Holds::Text, None),
        used("table_name_template", Holds::Text, Some("{project}.{table_name}")),
        used("batch_size", Holds::Int, Some("100")),
        used("consistent_reads", Holds::Bool, Some("false")),
        used("tags", Holds::Map, None),
        used("max_read_workers", Holds::Int, Some("10")),
        used("max_pool_connections", Holds::Int, Some("50")),
        used("keepalive_timeout", Holds::Float, Some("30")),
        used("connect_timeout", Holds::Float, Some("3")),
        used("read_timeout", Holds::Float, Some("10")),
        used("total_max_retry_attempts", Holds::Int, Some("3")),
        // Credentials are looked for in the same places either way.
        accepted("session_based_auth", Holds::Bool),
        only(
            "retry_mode",
            Holds::Choice(&["legacy", "standard", "adaptive"]),
            "standard",
            "what is throttled is tried again as in mode `standard`",
        ),
        missing(
            "warmup_connections",
            Holds::Bool,
            "connections are opened when they are needed",
        ),
    ],
};

/// An opened DynamoDB online store.
#[derive(Debug)]
pub struct DynamoStore {
    client: Client,
    region: String,
    endpoint_url: Option<String>,
    template: String,
    tags: BTreeMap<String, String>,
    keys_per_read: usize,
    reads_at_once: usize,
    consistent: bool,
}

impl DynamoStore {
    fn open(opening: &Opening<'_>) -> Result<Self> {
        let section = opening.section;
        let template = section.text("table_name_template").unwrap_or_default();
        if !template.contains("{table_name}") {
            return Err(Error::config(format!(
                "`online_store.table_name_template` is `{template}`: all views would share a table"
            ))
            .hint("it must hold `{table_name}`, as in `{project}.{table_name}`"));
        }
        let variables: BTreeMap<String, String> = std::env::vars()
            .filter(|(name, value)| (name.starts_with("AWS_") || name == "HOME") && !value.is_empty())
            .collect();
        let (identity, found) = crate::aws::identity(&variables);
        let region = section
            .text("region")
            .map(str::to_owned)
            .or(found)
            .ok_or_else(|| {
                Error::config("`online_store.region` is missing").hint("name the AWS region of the tables")
            })?;
        let count = |key: &str, most: usize| {
            let count = section.int(key).and_then(|count| usize::try_from(count).ok());
            count.unwrap_or(most).clamp(1, most)
        };
        let seconds = |key: &str, otherwise: u64| {
            let set = section.seconds(key).filter(|span| !span.is_zero());
            set.unwrap_or(Duration::from_secs(otherwise))
        };
        let endpoint_url = section.text("endpoint_url").map(str::to_owned);
        let endpoint = endpoint_url
            .clone()
            .or_else(|| variables.get("AWS_ENDPOINT_URL_DYNAMODB").cloned())
            .or_else(|| variables.get("AWS_ENDPOINT_URL").cloned())
            .unwrap_or_else(|| {
                let suffix = if region.starts_with("cn-") { ".cn" } else { "" };
                format!("https://dynamodb.{region}.amazonaws.com{suffix}")
            });
        let client = Client::new(
            client::Settings {
                endpoint,
                region: region.clone(),
                connections: count("max_pool_connections", 1024),
                idle: seconds("keepalive_timeout", 30),
                connect: seconds("connect_timeout", 3),
                answer: seconds("read_timeout", 10),
                attempts: count("total_max_retry_attempts", 20),
            },
            identity,
        )?;
        Ok(Self {
            client,
            region,
            endpoint_url,
            template: template.to_owned(),
            tags: section.map("tags"),
            keys_per_read: count("batch_size", KEYS_PER_READ),
            reads_at_once: count("max_read_workers", 1024),
            consistent: section.bool("consistent_reads"),
        })
    }

    fn table_name(&self, project: &str, table: &str) -> String {
        self.template
            .replace("{project}", project)
            .replace("{table_name}", table)
    }

    async fn keep(&self, project: &str, view: &FeatureView) -> Result<()> {
        self.create(&self.table_name(project, &view.name), view).await
    }

    /// Whether there was one.
    async fn delete_item(&self, name: &str, key: &[u8]) -> Result<bool> {
        let request = json!({
            "TableName": name,
            "Key": {"entity_id": {"S": entity_key::entity_id(key)}},
            "ConditionExpression": "attribute_exists(entity_id)",
        });
        match self.client.call("DeleteItem", &request).await {
            Ok(_) => Ok(true),
            Err(failure) if failure.is("ConditionalCheckFailedException") || failure.is_missing() => {
                Ok(false)
            }
            Err(failure) => Err(self.client.told(failure, "deleting from", name)),
        }
    }
}

#[async_trait]
impl OnlineStore for DynamoStore {
    async fn read(&self, read: &OnlineRead<'_>) -> Result<Vec<RowBatch>> {
        self.read_groups(read).await
    }

    async fn write(&self, project: &str, table: &Table, batch: &WriteBatch, older: OlderRow) -> Result<u64> {
        self.write_rows(project, table, batch, older).await
    }

    async fn provision(&self, project: &str, keep: &[Arc<FeatureView>], drop: &[Table]) -> Result<()> {
        let mut changes = Vec::new();
        for view in keep {
            changes.push(self.keep(project, view).boxed());
        }
        for table in drop {
            let name = self.table_name(project, &table.name);
            changes.push(async move { self.drop_table(&name).await }.boxed());
        }
        let changes = stream::iter(changes).buffer_unordered(WRITERS);
        changes.try_collect().await
    }

    async fn delete(&self, project: &str, table: &Table, keys: &[Bytes]) -> Result<u64> {
        let name = self.table_name(project, &table.name);
        let mut deletions = Vec::with_capacity(keys.len());
        for key in keys {
            deletions.push(self.delete_item(&name, key));
        }
        let counts = stream::iter(deletions).buffer_unordered(WRITERS);
        counts
            .try_fold(0, |sum, there| async move { Ok(sum + u64::from(there)) })
            .await
    }

    async fn count(&self, project: &str, table: &Table) -> Result<u64> {
        self.count_items(&self.table_name(project, &table.name)).await
    }

    async fn truncate(&self, project: &str, table: &Table) -> Result<()> {
        self.delete_items(&self.table_name(project, &table.name)).await
    }

    async fn keys(
        &self,
        project: &str,
        table: &Table,
        page: Option<Bytes>,
    ) -> Result<(Vec<Bytes>, Option<Bytes>)> {
        self.list_keys(&self.table_name(project, &table.name), page).await
    }

    fn infra(&self, project: &str, view: &FeatureView) -> Option<InfraObject> {
        let name = self.table_name(project, &view.name);
        let endpoint = self.endpoint_url.as_deref();
        // Laid out as Python's `json.dumps` does, so that both write the same bytes.
        let field = format!(
            "{{\"name\": {}, \"region\": {}, \"endpoint_url\": {}}}",
            json!(name),
            json!(self.region),
            json!(endpoint)
        );
        Some(InfraObject {
            infra_object_class_type: "feast.infra.online_stores.dynamodb.DynamoDBTable".to_owned(),
            infra_object: Some(Inner::CustomInfra(CustomInfra { field: field.into() })),
        })
    }

    fn name(&self) -> &'static str {
        KIND.name
    }

    async fn check(&self) -> Result<()> {
        match self.client.call("ListTables", &json!({"Limit": 1})).await {
            // Whoever may not list tables has been recognized all the same.
            Err(failure) if !failure.is("AccessDeniedException") => {
                Err(self.client.told(failure, "reaching", "ListTables"))
            }
            _ => Ok(()),
        }
    }
}
