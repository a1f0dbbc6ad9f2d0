//! [`RedisStore`]: Redis and what speaks its language (Valkey, Dragonfly), alone, as a cluster or behind
//! sentinels, in Feast's layout (`feast/infra/online_stores/redis.py`).
//!
//! An entity is one hash under its encoded key and the project's name; all views of the entity share it. A
//! feature's field is a hash of `view:feature`, `_ts:view` is the row's event time.
//!
//! Differences from Feast's own store, none in what is stored: comparing event times and writing are one
//! step; of equal times the row written last stays; deletion looks for exactly the project's keys, where
//! Feast also takes those of projects whose names end alike.
//!
//! The protocol is spoken here, in `resp` and `connection`. The crate `redis` (1.8, its multiplexed
//! connection) gives every value an allocation of its own and cannot send one pipeline to several nodes of a
//! cluster: ten hashes of 260 fields cost it about five times the processor time that a whole request of
//! that size takes here, its JSON included.

mod cluster;
mod connection;
mod layout;
mod node;
mod options;
mod read;
mod resp;
mod scan;
mod tls;
mod write;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::join_all;

use self::{
    cluster::Cluster,
    layout::Layouts,
    node::Node,
    options::Connections,
    resp::{Pipeline, error_of},
};
use super::{OlderRow, OnlineRead, OnlineStore, RowBatch, StoreKind, Table, WriteBatch};
use crate::{
    config::{
        Section,
        schema::{Kind as Holds, Schema, Unknown, used},
    },
    error::{Error, Result},
    model::{FeatureView, entity_key},
};

/// The `redis` type.
pub static KIND: StoreKind = StoreKind {
    name: "redis",
    schema: &SCHEMA,
    open: |opening| {
        Box::pin(async move {
            let store = RedisStore::new(opening.section, opening.key_version)?;
            Ok(Arc::new(store) as Arc<dyn OnlineStore>)
        })
    },
};

static SCHEMA: Schema = Schema {
    unknown: Unknown::Refused,
    keys: &[
        used("type", Holds::Text, Some("redis")),
        used(
            "redis_type",
            Holds::Choice(&["redis", "redis_cluster", "redis_sentinel"]),
            Some("redis"),
        ),
        used("client", Holds::Choice(&["redis", "glide"]), Some("redis")),
        used("sentinel_master", Holds::Text, Some("mymaster")),
        used("connection_string", Holds::Secret, Some("localhost:6379")),
        used("key_ttl_seconds", Holds::Int, None),
        used("full_scan_for_deletion", Holds::Bool, Some("true")),
        used("skip_dedup", Holds::Bool, Some("false")),
    ],
};

/// An online store in Redis.
#[derive(Debug)]
pub struct RedisStore {
    link: Link,
    key_version: entity_key::Version,
    /// Seconds an entity is kept after its last write.
    ttl: Option<i64>,
    scans_to_delete: bool,
    skips_compare: bool,
    layouts: Layouts,
}

/// The servers.
#[derive(Debug)]
enum Link {
    Single(Arc<Node>),
    Cluster(Box<Cluster>),
}

impl RedisStore {
    /// The store of a section; it connects when it is first used.
    fn new(section: &Section, key_version: entity_key::Version) -> Result<Self> {
        let text = section.text("connection_string").unwrap_or("localhost:6379");
        let Connections {
            mut addresses,
            options,
            sentinel,
        } = Connections::parse(text)?;
        let link = match section.text("redis_type") {
            Some("redis_cluster") => Link::Cluster(Box::new(Cluster::new(addresses, options))),
            Some("redis_sentinel") => {
                if section.text("client") == Some("glide") {
                    return Err(Error::config(
                        "`online_store.client: glide` cannot be used with `redis_type: redis_sentinel`",
                    )
                    .hint("leave `client` out: thali reads as fast without it"));
                }
                let name = section.text("sentinel_master").unwrap_or("mymaster");
                Link::Single(Arc::new(Node::behind_sentinels(
                    addresses, sentinel, name, options,
                )))
            }
            _ => Link::Single(Arc::new(Node::fixed(addresses.swap_remove(0), options))),
        };
        let ttl = section.int("key_ttl_seconds").filter(|seconds| *seconds != 0);
        if ttl.is_some_and(|seconds| seconds < 0) {
            return Err(Error::config("`online_store.key_ttl_seconds` is negative")
                .hint("leave it out to keep entities for ever"));
        }
        Ok(Self {
            link,
            key_version,
            ttl,
            scans_to_delete: section.bool("full_scan_for_deletion"),
            skips_compare: section.bool("skip_dedup"),
            layouts: Layouts::default(),
        })
    }

    /// What is being done to what, in front of a message.
    fn doing(&self, doing: &str) -> String {
        let place = match &self.link {
            Link::Single(node) => node.describe(),
            Link::Cluster(cluster) => cluster.describe(),
        };
        format!("{doing} online store `redis` at {place}")
    }

    /// Sends commands, each to where its key is; answers the replies in order.
    async fn send(&self, pipeline: Pipeline) -> Result<Vec<Bytes>> {
        let replies = pipeline.len();
        let answered = match &self.link {
            Link::Single(node) => node.run(pipeline.into_bytes(), replies).await,
            Link::Cluster(cluster) => cluster.run(&pipeline).await,
        };
        Ok(answered?)
    }

    async fn run(&self, pipeline: Pipeline, doing: &str) -> Result<Vec<Bytes>> {
        self.send(pipeline)
            .await
            .map_err(|error| error.context(self.doing(doing)))
    }

    /// Every server that has keys of its own.
    async fn nodes(&self) -> Result<Vec<Arc<Node>>> {
        match &self.link {
            Link::Single(node) => Ok(vec![Arc::clone(node)]),
            Link::Cluster(cluster) => {
                let mut nodes = cluster
                    .primaries()
                    .await
                    .map_err(|error| error.context(self.doing("asking")))?;
                nodes.sort_by_key(|node| node.describe());
                Ok(nodes)
            }
        }
    }
}

#[async_trait]
impl OnlineStore for RedisStore {
    async fn read(&self, read: &OnlineRead<'_>) -> Result<Vec<RowBatch>> {
        self.read_groups(read).await
    }

    async fn write(&self, project: &str, table: &Table, batch: &WriteBatch, older: OlderRow) -> Result<u64> {
        self.write_rows(project, table, batch, older).await
    }

    async fn provision(&self, project: &str, _keep: &[Arc<FeatureView>], drop: &[Table]) -> Result<()> {
        if self.scans_to_delete {
            for table in drop {
                self.delete_all(project, table).await?;
            }
        }
        Ok(())
    }

    async fn delete(&self, project: &str, table: &Table, keys: &[Bytes]) -> Result<u64> {
        self.delete_rows(project.as_bytes(), table, keys).await
    }

    async fn count(&self, project: &str, table: &Table) -> Result<u64> {
        self.count_rows(project, table).await
    }

    async fn truncate(&self, project: &str, table: &Table) -> Result<()> {
        self.delete_all(project, table).await
    }

    async fn keys(
        &self,
        project: &str,
        table: &Table,
        page: Option<Bytes>,
    ) -> Result<(Vec<Bytes>, Option<Bytes>)> {
        self.page_of_keys(project, table, page).await
    }

    fn unknown_is_present(&self, _: &FeatureView) -> bool {
        true
    }

    fn name(&self) -> &'static str {
        KIND.name
    }

    async fn check(&self) -> Result<()> {
        let nodes = self.nodes().await?;
        let pings = nodes.iter().map(async |node| {
            let ping = Pipeline::of(&[b"PING"]).into_bytes();
            let frames = node.run(ping, 1).await?;
            match frames.first().and_then(|frame| error_of(frame)) {
                Some(said) if !said.starts_with("NOPERM") => Err(resp::refused(said)),
                _ => Ok(()),
            }
        });
        for answered in join_all(pings).await {
            answered.map_err(|error| error.context(self.doing("asking")))?;
        }
        Ok(())
    }
}
