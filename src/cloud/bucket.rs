//! [`Bucket`]: an object store as the query engine is given it. What it says when it fails is ours, without
//! anything secret; long objects are read in pieces; and what is cached of an object is known by its content.

use std::{fmt, ops::Range, sync::Arc};

use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use futures::{
    StreamExt, TryStreamExt,
    stream::{self, BoxStream},
};
use object_store::{
    CopyOptions, GetOptions, GetRange, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart, path::Path,
};
use sha2::{Digest as _, Sha256};

use super::explained;
use crate::error::Kind;

/// What is read in one request. A reader that is slow, or waits for somebody, then holds no connection.
const PIECE: u64 = 8 << 20;
/// Pieces that are read ahead.
const AHEAD: usize = 2;

/// See the module.
#[derive(Debug, Clone)]
pub(crate) struct Bucket {
    inner: Arc<dyn ObjectStore>,
    /// As messages call it.
    name: Arc<str>,
    /// The content that is wanted of whatever is read; another one is a conflict.
    e_tag: Option<String>,
}

impl Bucket {
    pub(crate) fn new(name: &str, inner: Arc<dyn ObjectStore>) -> Self {
        Self {
            inner,
            name: name.into(),
            e_tag: None,
        }
    }

    /// The same for one object that has to be still what it was.
    pub(crate) fn pinned(&self, object: &ObjectMeta) -> Self {
        Self {
            e_tag: object.e_tag.clone(),
            ..self.clone()
        }
    }

    /// An error that says what is wrong in our words, and is still of its kind where the kind matters.
    fn told(&self, error: object_store::Error) -> object_store::Error {
        use object_store::Error::{AlreadyExists, Generic, NotFound, NotModified, Precondition};
        let ours = explained(&self.name, &error);
        let is_told = ours.kind() == Kind::Config;
        let source = Box::new(ours);
        match error {
            NotFound { path, .. } if !is_told => NotFound { path, source },
            AlreadyExists { path, .. } => AlreadyExists { path, source },
            Precondition { path, .. } => Precondition { path, source },
            NotModified { path, .. } => NotModified { path, source },
            _ => Generic {
                store: "object store",
                source,
            },
        }
    }

    /// Stores tell times in seconds, and the query engine knows what it has cached of an object by path, size
    /// and time, whatever bucket it is in. So the time's fraction is made of what else tells contents apart.
    fn known(&self, mut object: ObjectMeta) -> ObjectMeta {
        let mut digest = Sha256::new();
        digest.update(self.inner.to_string());
        digest.update([0]);
        digest.update(object.e_tag.as_deref().unwrap_or_default());
        digest.update([0]);
        digest.update(object.version.as_deref().unwrap_or_default());
        let digest = digest.finalize();
        let number = digest
            .iter()
            .take(8)
            .fold(0, |number: u64, byte| number << 8 | u64::from(*byte));
        object.last_modified = with_fraction(object.last_modified, number % 1_000_000_000);
        object
    }

    async fn get_piece(&self, location: &Path, mut options: GetOptions) -> Result<GetResult> {
        if let Some(e_tag) = &self.e_tag {
            options.if_match.get_or_insert_with(|| e_tag.clone());
        }
        let found = self.inner.get_opts(location, options).await;
        let mut found = found.map_err(|error| self.told(error))?;
        found.meta = self.known(found.meta);
        if let GetResultPayload::Stream(body) = found.payload {
            let bucket = self.clone();
            let body = body.map_err(move |error| bucket.told(error)).boxed();
            found.payload = GetResultPayload::Stream(body);
        }
        Ok(found)
    }
}

fn with_fraction(time: DateTime<Utc>, nanos: u64) -> DateTime<Utc> {
    let second = TimeDelta::nanoseconds(i64::from(time.timestamp_subsec_nanos()));
    let fraction = TimeDelta::nanoseconds(i64::try_from(nanos).unwrap_or_default());
    time.checked_sub_signed(second)
        .and_then(|time| time.checked_add_signed(fraction))
        .unwrap_or(time)
}

/// The range cut into pieces.
fn pieces(range: Range<u64>) -> impl Iterator<Item = Range<u64>> + Send {
    let end = range.end;
    let length = usize::try_from(PIECE).unwrap_or(usize::MAX);
    range
        .step_by(length)
        .map(move |start| start..end.min(start + PIECE))
}

impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bucket `{}`", self.name)
    }
}

#[async_trait]
impl ObjectStore for Bucket {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let written = self.inner.put_opts(location, payload, options).await;
        written.map_err(|error| self.told(error))
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let upload = self.inner.put_multipart_opts(location, options).await;
        let upload = upload.map_err(|error| self.told(error))?;
        Ok(Box::new(Upload {
            bucket: self.clone(),
            upload,
        }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let is_long = match &options.range {
            None => true,
            Some(GetRange::Bounded(range)) => range.end.saturating_sub(range.start) > PIECE,
            Some(GetRange::Offset(_) | GetRange::Suffix(_)) => false,
        };
        if options.head || !is_long {
            return self.get_piece(location, options).await;
        }
        let head = GetOptions {
            head: true,
            range: None,
            ..options.clone()
        };
        let head = self.get_piece(location, head).await?;
        let size = head.meta.size;
        let range = match options.range {
            Some(GetRange::Bounded(range)) => range.start.min(size)..range.end.min(size),
            _ => 0..size,
        };
        let (bucket, location) = (self.pinned(&head.meta), location.clone());
        let read = stream::iter(pieces(range.clone())).map(move |range| {
            let (bucket, location) = (bucket.clone(), location.clone());
            let options = GetOptions {
                range: Some(range.into()),
                ..GetOptions::default()
            };
            async move { bucket.get_piece(&location, options).await?.bytes().await }
        });
        Ok(GetResult {
            payload: GetResultPayload::Stream(read.buffered(AHEAD).boxed()),
            range,
            meta: head.meta,
            attributes: head.attributes,
        })
    }

    fn delete_stream(&self, keys: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let bucket = self.clone();
        let deleted = self.inner.delete_stream(keys);
        deleted.map_err(move |error| bucket.told(error)).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let bucket = self.clone();
        let listed = self.inner.list(prefix).map(move |found| match found {
            Ok(object) => Ok(bucket.known(object)),
            Err(error) => Err(bucket.told(error)),
        });
        listed.boxed()
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        let bucket = self.clone();
        let listed = self.inner.list_with_offset(prefix, offset);
        let listed = listed.map(move |found| match found {
            Ok(object) => Ok(bucket.known(object)),
            Err(error) => Err(bucket.told(error)),
        });
        listed.boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let listed = self.inner.list_with_delimiter(prefix).await;
        let mut listed = listed.map_err(|error| self.told(error))?;
        let objects = std::mem::take(&mut listed.objects).into_iter();
        listed.objects = objects.map(|object| self.known(object)).collect();
        Ok(listed)
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let copied = self.inner.copy_opts(from, to, options).await;
        copied.map_err(|error| self.told(error))
    }
}

/// An upload whose errors are told.
#[derive(Debug)]
struct Upload {
    bucket: Bucket,
    upload: Box<dyn MultipartUpload>,
}

#[async_trait]
impl MultipartUpload for Upload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let (bucket, part) = (self.bucket.clone(), self.upload.put_part(data));
        Box::pin(async move { part.await.map_err(|error| bucket.told(error)) })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let done = self.upload.complete().await;
        done.map_err(|error| self.bucket.told(error))
    }

    async fn abort(&mut self) -> Result<()> {
        let gone = self.upload.abort().await;
        gone.map_err(|error| self.bucket.told(error))
    }
}
