//! [`Place`]: where a registry file and the small objects beside it are kept. A place moves bytes and
//! knows nothing of what is in them.

use std::{any::Any, fmt};

use async_trait::async_trait;
use bytes::Bytes;
use object_store::UpdateVersion;

use crate::error::Result;

/// What a place tells about the file's content without giving it.
#[derive(Debug, Clone)]
pub(super) struct Mark {
    pub(super) version: UpdateVersion,
    /// False when the content may have changed since without another mark, as a file can that was
    /// written a moment ago.
    pub(super) is_certain: bool,
}

impl Mark {
    pub(super) fn new(e_tag: Option<String>, version: Option<String>) -> Self {
        Self {
            version: UpdateVersion { e_tag, version },
            is_certain: true,
        }
    }

    /// The mark as one text.
    pub(super) fn text(&self) -> &str {
        let UpdateVersion { e_tag, version } = &self.version;
        e_tag.as_deref().or(version.as_deref()).unwrap_or_default()
    }
}

/// What looking at the file found.
#[derive(Debug)]
pub(super) enum Look {
    Missing,
    /// Still what was marked.
    Same,
    Content(Mark, Bytes),
}

/// What came of replacing the file.
#[derive(Debug)]
pub(super) enum Replaced {
    /// The new content is there to stay, under this mark.
    Done(Mark),
    /// The file was no longer the one expected; nothing was written.
    Lost,
}

/// Holds other writers back until it is dropped, where a place can do that.
pub(super) type Lock = Box<dyn Any + Send + Sync>;

/// A place for one registry file. Names of side objects are paths relative to a folder beside the file.
#[async_trait]
pub(super) trait Place: fmt::Debug + Send + Sync {
    /// How messages call the file: a path or a URL.
    fn name(&self) -> &str;

    /// The file's content, unless it is still what `known` marks.
    async fn look(&self, known: Option<&Mark>) -> Result<Look>;

    /// The mark of the present content, for places where each content has a mark of its own. `None` when
    /// there is no content, or no such mark.
    async fn present_mark(&self) -> Result<Option<Mark>>;

    /// Whether each content has a mark of its own.
    fn has_exact_marks(&self) -> bool;

    /// Waits for the right to write.
    async fn lock(&self) -> Result<Lock>;

    /// Puts `content` in the file's place, at once and whole, if it is still what `expected` marks;
    /// `None` expects no file.
    async fn replace(&self, content: Bytes, expected: Option<&Mark>) -> Result<Replaced>;

    /// Names in a folder of side objects, in no order; none when there is no such folder.
    async fn list(&self, folder: &str) -> Result<Vec<String>>;

    /// A side object; `None` when there is none.
    async fn get(&self, name: &str) -> Result<Option<Bytes>>;

    /// Writes a side object, at once and whole; it outlasts a crash when this returns.
    async fn put(&self, name: &str, content: Bytes) -> Result<()>;

    /// Removes a side object, if there is one.
    async fn remove(&self, name: &str) -> Result<()>;
}
