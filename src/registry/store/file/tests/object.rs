//! Registries in object stores: races, answers that get lost, stores that cannot be trusted.

use std::fmt;

use futures::stream::BoxStream;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, memory::InMemory, path::Path as Key,
};

use super::{
    history::{add_one, ann, count, history_matches, in_memory, memory_place},
    *,
};

#[tokio::test]
async fn conforms() {
    let open = in_memory();
    conformance::all(&FileStore::on(open()).await.unwrap()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_writers_lose_nothing() {
    let open = in_memory();
    let mut handles: Vec<Arc<dyn RegistryStore>> = Vec::new();
    for _ in 0..3 {
        handles.push(Arc::new(FileStore::on(open()).await.unwrap()));
    }
    conformance::concurrent_writers(handles).await;
}

#[tokio::test]
async fn the_revision_is_had_without_the_content() {
    let open = in_memory();
    let (one, two) = (
        FileStore::on(open()).await.unwrap(),
        FileStore::on(open()).await.unwrap(),
    );
    for _ in 0..3 {
        let before = one.revision().await.unwrap();
        add_one(&two, None).await.unwrap();
        assert_ne!(one.revision().await.unwrap(), before);
        let state = one.load("p.q").await.unwrap();
        assert_eq!(one.revision().await.unwrap(), state.revision);
        assert_eq!(two.revision().await.unwrap(), state.revision);
        assert_eq!(state.objects, two.load("p.q").await.unwrap().objects);
    }
}

/// What is wrong with a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// It takes every write, whatever its condition, as S3-compatible stores do that know none.
    IgnoresConditions,
    /// It refuses conditional writes.
    RefusesConditions,
    /// Every third answer to a write of the registry gets lost after it was written.
    LosesAnswers,
    /// Another writer is always faster.
    AlwaysLost,
}

#[derive(Debug)]
struct Faulty {
    store: InMemory,
    fault: Fault,
    writes: Mutex<usize>,
}

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.fault)
    }
}

fn faulty(fault: Fault) -> Box<dyn Place> {
    Box::new(memory_place(Arc::new(Faulty {
        store: InMemory::new(),
        fault,
        writes: Mutex::default(),
    })))
}

#[async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(
        &self,
        key: &Key,
        content: PutPayload,
        mut options: PutOptions,
    ) -> object_store::Result<PutResult> {
        let is_registry = key.filename() == Some("registry.db");
        match self.fault {
            Fault::IgnoresConditions => options.mode = PutMode::Overwrite,
            Fault::RefusesConditions if options.mode != PutMode::Overwrite => {
                return Err(object_store::Error::Generic {
                    store: "test",
                    source: "Server returned non-2xx status code: 501: <Error><Code>NotImplemented</Code><Message>A header you provided</Message></Error>".into(),
                });
            }
            Fault::AlwaysLost if is_registry => {
                return Err(object_store::Error::Precondition {
                    path: key.to_string(),
                    source: "somebody was faster".into(),
                });
            }
            Fault::LosesAnswers if is_registry => {
                let done = self.store.put_opts(key, content, options).await?;
                let mut writes = self.writes.lock().unwrap();
                *writes += 1;
                return match *writes % 3 {
                    // As if the client had tried again after a bad gateway.
                    1 => Err(object_store::Error::Precondition {
                        path: key.to_string(),
                        source: "412".into(),
                    }),
                    2 => Err(object_store::Error::Generic {
                        store: "test",
                        source: "connection closed".into(),
                    }),
                    _ => Ok(done),
                };
            }
            _ => {}
        }
        self.store.put_opts(key, content, options).await
    }

    async fn put_multipart_opts(
        &self,
        key: &Key,
        options: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        self.store.put_multipart_opts(key, options).await
    }

    async fn get_opts(&self, key: &Key, options: GetOptions) -> object_store::Result<GetResult> {
        self.store.get_opts(key, options).await
    }

    fn delete_stream(
        &self,
        keys: BoxStream<'static, object_store::Result<Key>>,
    ) -> BoxStream<'static, object_store::Result<Key>> {
        self.store.delete_stream(keys)
    }

    fn list(&self, prefix: Option<&Key>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        self.store.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Key>) -> object_store::Result<ListResult> {
        self.store.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Key, to: &Key, options: CopyOptions) -> object_store::Result<()> {
        self.store.copy_opts(from, to, options).await
    }
}

#[tokio::test]
async fn a_store_without_conditional_writes_is_refused_before_anything_is_written() {
    for fault in [Fault::IgnoresConditions, Fault::RefusesConditions] {
        let store = FileStore::on(faulty(fault)).await.unwrap();
        for _ in 0..2 {
            let error = add_one(&store, Some(&ann())).await.unwrap_err();
            assert_eq!(error.kind(), Kind::Unsupported, "{error}");
            assert!(
                error.message().contains("mem://bucket/feast/registry.db"),
                "{error}"
            );
            assert!(error.hint_text().unwrap().contains("If-Match"), "{error}");
        }
        assert!(store.projects().await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn a_write_whose_answer_is_lost_is_made_once() {
    let store = FileStore::on(faulty(Fault::LosesAnswers)).await.unwrap();
    for made in 1..=9 {
        let state = add_one(&store, Some(&ann())).await.unwrap();
        assert_eq!(count(&state), made);
    }
    assert_eq!(history_matches(&store).await, 9);
}

#[tokio::test]
async fn who_always_loses_gives_up_with_a_conflict() {
    let mut store = FileStore::on(faulty(Fault::AlwaysLost)).await.unwrap();
    Arc::get_mut(&mut store.inner).unwrap().patience = Duration::from_millis(100);
    let error = add_one(&store, Some(&ann())).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Conflict, "{error}");
    assert!(store.load("p.q").await.unwrap().is_empty());
    assert_eq!(history_matches(&store).await, 0);
}
