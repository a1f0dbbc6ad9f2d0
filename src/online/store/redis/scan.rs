//! Going through all entities: there is no index of them, so every key of the server is looked at.

use std::{collections::HashSet, sync::Arc};

use bytes::Bytes;

use super::{
    RedisStore,
    layout::time_field,
    node::Node,
    resp::{Pipeline, Walk},
};
use crate::{
    error::{Error, Result},
    model::entity_key,
    online::store::Table,
};

/// Keys that Redis looks at for one page.
const PAGE: &[u8] = b"1000";

/// Which keys are those of a view's entities.
struct Entities {
    header: Vec<u8>,
    values: usize,
    project: Vec<u8>,
    time_field: Vec<u8>,
}

impl Entities {
    fn new(store: &RedisStore, project: &str, table: &Table) -> Self {
        let keys = &table.view.join_keys;
        let names: Vec<&str> = keys.iter().map(|key| key.name.as_str()).collect();
        Self {
            header: entity_key::prefix(&names, store.key_version),
            values: names.len(),
            project: project.as_bytes().to_vec(),
            time_field: time_field(&table.name),
        }
    }

    /// What Redis compares keys with: only a first choice, because a project's name may end another's.
    fn pattern(&self) -> Vec<u8> {
        let mut pattern = Vec::new();
        for byte in &self.header {
            escape(&mut pattern, *byte);
        }
        pattern.push(b'*');
        for byte in &self.project {
            escape(&mut pattern, *byte);
        }
        pattern
    }

    /// The entity key in a Redis key, if it is one of this project with these join keys.
    fn entity(&self, key: &Bytes) -> Option<Bytes> {
        let mut rest = key.strip_prefix(&self.header[..])?;
        for _ in 0..self.values {
            let (_kind, sized) = rest.split_first_chunk::<4>()?;
            let (length, value) = sized.split_first_chunk::<4>()?;
            rest = value.get(usize::try_from(u32::from_le_bytes(*length)).ok()?..)?;
        }
        (rest == self.project).then(|| key.slice(..key.len() - rest.len()))
    }
}

fn escape(pattern: &mut Vec<u8>, byte: u8) {
    if matches!(byte, b'*' | b'?' | b'[' | b']' | b'\\' | b'^' | b'-') {
        pattern.push(b'\\');
    }
    pattern.push(byte);
}

/// Where a page begins: at which server, and where in it.
struct Page {
    node: usize,
    cursor: Vec<u8>,
}

impl Page {
    fn read(token: Option<&Bytes>) -> Result<Self> {
        let Some(token) = token else {
            return Ok(Self {
                node: 0,
                cursor: b"0".to_vec(),
            });
        };
        let damaged = || Error::invalid("this is no page of entity keys of the online store `redis`");
        let text = str::from_utf8(token).map_err(|_| damaged())?;
        let (node, cursor) = text.split_once(':').ok_or_else(damaged)?;
        Ok(Self {
            node: node.parse().map_err(|_| damaged())?,
            cursor: cursor.as_bytes().to_vec(),
        })
    }

    /// What comes after a page whose server answered with `cursor`.
    fn next(&self, cursor: &[u8], nodes: usize) -> Option<Self> {
        let (node, cursor) = if cursor == b"0" {
            (self.node + 1, b"0".to_vec())
        } else {
            (self.node, cursor.to_vec())
        };
        (node < nodes).then_some(Self { node, cursor })
    }

    fn token(&self) -> Bytes {
        format!("{}:{}", self.node, String::from_utf8_lossy(&self.cursor)).into()
    }
}

impl RedisStore {
    /// A page of entity keys that have a row, and where the next begins.
    pub(super) async fn page_of_keys(
        &self,
        project: &str,
        table: &Table,
        page: Option<Bytes>,
    ) -> Result<(Vec<Bytes>, Option<Bytes>)> {
        let entities = Entities::new(self, project, table);
        let page = Page::read(page.as_ref())?;
        let nodes = self.nodes().await?;
        let (found, next) = self.scan(&nodes, &entities, &page).await?;
        let keys = self.with_rows(&entities, found).await?;
        Ok((keys, next.map(|next| next.token())))
    }

    pub(super) async fn count_rows(&self, project: &str, table: &Table) -> Result<u64> {
        let entities = Entities::new(self, project, table);
        let nodes = self.nodes().await?;
        // While Redis makes room for more keys it may give out a key twice.
        let mut seen = HashSet::new();
        let mut page = Some(Page::read(None)?);
        while let Some(this) = page {
            let (found, next) = self.scan(&nodes, &entities, &this).await?;
            let keys = self.with_rows(&entities, found).await?;
            seen.extend(keys.iter().map(|key| entity_key::fingerprint(key)));
            page = next;
        }
        Ok(seen.len() as u64)
    }

    /// Deletes all rows of a view.
    pub(super) async fn delete_all(&self, project: &str, table: &Table) -> Result<()> {
        let entities = Entities::new(self, project, table);
        let nodes = self.nodes().await?;
        let mut page = Some(Page::read(None)?);
        while let Some(this) = page {
            let (found, next) = self.scan(&nodes, &entities, &this).await?;
            self.delete_rows(&entities.project, table, &found).await?;
            page = next;
        }
        Ok(())
    }

    /// The entity keys on a page, with a row of the view or without.
    async fn scan(
        &self,
        nodes: &[Arc<Node>],
        entities: &Entities,
        page: &Page,
    ) -> Result<(Vec<Bytes>, Option<Page>)> {
        let Some(node) = nodes.get(page.node) else {
            return Ok((Vec::new(), None));
        };
        let pattern = entities.pattern();
        let command = Pipeline::of(&[b"SCAN", &page.cursor, b"MATCH", &pattern, b"COUNT", PAGE]);
        let scanned = async {
            let frames = node.run(command.into_bytes(), 1).await?;
            let frame = frames.first().cloned().unwrap_or_default();
            let mut walk = Walk::new(&frame);
            walk.array()?;
            let next = page.next(walk.bytes()?, nodes.len());
            let mut found = Vec::new();
            for _ in 0..walk.array()? {
                let key = frame.slice_ref(walk.bytes()?);
                found.extend(entities.entity(&key));
            }
            Ok((found, next))
        };
        scanned
            .await
            .map_err(|error: Error| error.context(self.doing("going through")))
    }

    /// Those of the entities that have a row of the view.
    async fn with_rows(&self, entities: &Entities, keys: Vec<Bytes>) -> Result<Vec<Bytes>> {
        if keys.is_empty() {
            return Ok(keys);
        }
        let mut pipeline = Pipeline::default();
        for key in &keys {
            pipeline.begin(3);
            pipeline.arg(b"HEXISTS");
            pipeline.key(key, &entities.project);
            pipeline.arg(&entities.time_field);
        }
        let frames = self.run(pipeline, "going through").await?;
        let mut found = Vec::with_capacity(keys.len());
        for (key, frame) in keys.into_iter().zip(&frames) {
            if Walk::new(frame).int()? == 1 {
                found.push(key);
            }
        }
        Ok(found)
    }
}
