//! [`ObjectPlace`]: a registry file in an object store. Nothing locks writers there; each replaces the
//! object only if it is still the one he read (a conditional write), or has lost the race. A store that
//! does not do conditional writes is found out before the first write and refused.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::TryStreamExt;
use object_store::{
    Attributes, GetOptions, ObjectStore, ObjectStoreExt, PutMode, PutOptions, TagSet, UpdateVersion,
    path::Path,
};
use tokio::sync::OnceCell;

use super::place::{Lock, Look, Mark, Place, Replaced};
use crate::{
    cloud::{self, is_lost, plain},
    error::{Error, Result},
};

/// An object store and what is written to it.
#[derive(Debug)]
pub(super) struct ObjectPlace {
    /// How messages call the registry file: its URL, without credentials.
    name: String,
    /// How messages call the bucket or container.
    bucket: String,
    store: Arc<dyn ObjectStore>,
    key: Path,
    /// Where the side objects are.
    history: Path,
    attributes: Attributes,
    tags: TagSet,
    /// Set once the store has shown that it keeps conditions.
    is_safe: OnceCell<()>,
}

impl ObjectPlace {
    pub(super) fn new(name: String, bucket: String, store: Arc<dyn ObjectStore>, key: Path) -> Self {
        Self {
            name,
            bucket,
            store,
            history: beside(&key),
            key,
            attributes: Attributes::new(),
            tags: TagSet::default(),
            is_safe: OnceCell::new(),
        }
    }

    /// What every object is written with.
    pub(super) fn with(mut self, attributes: Attributes, tags: TagSet) -> Self {
        self.attributes = attributes;
        self.tags = tags;
        self
    }

    fn side_path(&self, name: &str) -> Path {
        name.split('/').fold(self.history.clone(), Path::join)
    }

    async fn write(
        &self,
        path: &Path,
        content: Bytes,
        mode: PutMode,
    ) -> Result<UpdateVersion, object_store::Error> {
        let written = self
            .store
            .put_opts(path, content.into(), self.options(mode))
            .await?;
        Ok(written.into())
    }

    fn options(&self, mode: PutMode) -> PutOptions {
        PutOptions {
            mode,
            tags: self.tags.clone(),
            attributes: self.attributes.clone(),
            ..PutOptions::default()
        }
    }

    async fn check_conditions(&self) -> Result<()> {
        let path = self.side_path(&format!("probe/{}", uuid::Uuid::new_v4()));
        let keeps = cloud::keeps_conditions(self.store.as_ref(), &path, &self.options(PutMode::Create)).await;
        if keeps.map_err(|error| self.failed("written", &error))? {
            Ok(())
        } else {
            Err(self.unsafe_store("ignores the conditions of writes"))
        }
    }

    fn unsafe_store(&self, how: &str) -> Error {
        Error::unsupported(format!(
            "the object store of registry `{}` {how}, so that two writers could lose each other's changes; nothing was changed",
            self.name
        ))
        .hint("use a store that supports `If-Match` and `If-None-Match` on PUT, or a SQL registry")
    }

    fn failed(&self, verb: &str, error: &object_store::Error) -> Error {
        if matches!(
            error,
            object_store::Error::NotImplemented { .. } | object_store::Error::NotSupported { .. }
        ) || plain(error).contains("NotImplemented")
        {
            return self.unsafe_store("does not support conditional writes");
        }
        let told = cloud::explained(&self.bucket, error)
            .context(format!("registry `{}` cannot be {verb}", self.name));
        if told.kind() == crate::error::Kind::Config {
            told.hint("check the bucket, `registry.path` in feature_store.yaml, and that the credentials may list, read, write and delete objects there; without the right to list, a missing registry cannot be told from a forbidden one")
        } else {
            told
        }
    }
}

/// The prefix of what is kept beside the object of that key.
fn beside(key: &Path) -> Path {
    let mut parts: Vec<_> = key.parts().collect();
    let name = parts.pop().map(|name| format!("{}.history", name.as_ref()));
    // The parts are kept as they are: a key may have characters that a new one would be made without.
    let prefix: Vec<&str> = parts.iter().map(AsRef::as_ref).chain(name.as_deref()).collect();
    Path::parse(prefix.join("/")).unwrap_or_default()
}

#[async_trait]
impl Place for ObjectPlace {
    fn name(&self) -> &str {
        &self.name
    }

    async fn look(&self, known: Option<&Mark>) -> Result<Look> {
        let options = GetOptions {
            if_none_match: known.and_then(|mark| mark.version.e_tag.clone()),
            ..GetOptions::default()
        };
        let found = match self.store.get_opts(&self.key, options).await {
            Ok(found) => found,
            Err(object_store::Error::NotModified { .. }) => return Ok(Look::Same),
            Err(error @ object_store::Error::NotFound { .. }) => {
                let error = self.failed("read", &error);
                // Of a missing bucket the answer tells more than of a missing object.
                return if error.kind() == crate::error::Kind::Config {
                    Err(error)
                } else {
                    Ok(Look::Missing)
                };
            }
            Err(error) => return Err(self.failed("read", &error)),
        };
        let mark = Mark::new(found.meta.e_tag.clone(), found.meta.version.clone());
        if mark.text().is_empty() {
            return Err(self.unsafe_store("tells no version of its objects"));
        }
        let content = found.bytes().await.map_err(|error| self.failed("read", &error))?;
        Ok(Look::Content(mark, content))
    }

    async fn present_mark(&self) -> Result<Option<Mark>> {
        match self.store.head(&self.key).await {
            Ok(meta) => Ok(Some(Mark::new(meta.e_tag, meta.version))),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.failed("read", &error)),
        }
    }

    fn has_exact_marks(&self) -> bool {
        true
    }

    async fn lock(&self) -> Result<Lock> {
        self.is_safe.get_or_try_init(|| self.check_conditions()).await?;
        Ok(Box::new(()))
    }

    async fn replace(&self, content: Bytes, expected: Option<&Mark>) -> Result<Replaced> {
        let mode = match expected {
            Some(mark) => PutMode::Update(mark.version.clone()),
            None => PutMode::Create,
        };
        match self.write(&self.key, content, mode).await {
            Ok(version) => Ok(Replaced::Done(Mark::new(version.e_tag, version.version))),
            Err(error) if is_lost(&error) => Ok(Replaced::Lost),
            Err(error) => Err(self.failed("written", &error)),
        }
    }

    async fn list(&self, folder: &str) -> Result<Vec<String>> {
        let folder = self.side_path(folder);
        let listed = self.store.list(Some(&folder)).try_collect::<Vec<_>>().await;
        let listed = listed.map_err(|error| self.failed("read", &error))?;
        let name = |meta: &object_store::ObjectMeta| {
            let mut parts = meta.location.prefix_match(&folder)?;
            let name = parts.next()?.as_ref().to_owned();
            parts.next().is_none().then_some(name)
        };
        Ok(listed.iter().filter_map(name).collect())
    }

    async fn get(&self, name: &str) -> Result<Option<Bytes>> {
        let read = async { self.store.get(&self.side_path(name)).await?.bytes().await };
        match read.await {
            Ok(content) => Ok(Some(content)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.failed("read", &error)),
        }
    }

    async fn put(&self, name: &str, content: Bytes) -> Result<()> {
        let written = self
            .write(&self.side_path(name), content, PutMode::Overwrite)
            .await;
        written.map(drop).map_err(|error| self.failed("written", &error))
    }

    async fn remove(&self, name: &str) -> Result<()> {
        match self.store.delete(&self.side_path(name)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(self.failed("written", &error)),
        }
    }
}
