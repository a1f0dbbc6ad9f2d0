//! [`Buckets`]: the object stores that file sources lie in, each opened once and made known to the query engine.

use std::{collections::HashMap, sync::Arc};

use datafusion::{
    datasource::{
        listing::PartitionedFile,
        physical_plan::{ParquetFileReaderFactory, parquet::CachedParquetFileReaderFactory},
    },
    error::DataFusionError,
    execution::{
        cache::cache_manager::FileMetadataCache, object_store::ObjectStoreUrl, runtime_env::RuntimeEnv,
    },
    parquet::arrow::async_reader::AsyncFileReader,
    physical_plan::metrics::ExecutionPlanMetricsSet,
};
use object_store::{PutMode, PutOptions, path::Path};
use tokio::sync::{Mutex, OnceCell};
use url::Url;

use crate::{
    cloud::{self, Address, Bucket, Environment, ObjectStoreKind},
    error::{Error, Result},
};

/// See the module.
#[derive(Debug)]
pub(super) struct Buckets {
    environment: Environment,
    runtime: Arc<RuntimeEnv>,
    /// By kind, host and endpoint.
    opened: Mutex<HashMap<(ObjectStoreKind, String, String), Arc<Opened>>>,
}

/// An object store that the query engine knows.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) bucket: Bucket,
    /// What the query engine knows it by. Buckets of the same name may be several, at different endpoints.
    url: ObjectStoreUrl,
    keeps_conditions: OnceCell<bool>,
}

/// An object, a folder of objects or a pattern of them.
#[derive(Debug, Clone)]
pub(super) struct Object {
    pub(super) opened: Arc<Opened>,
    pub(super) key: Path,
}

impl Buckets {
    pub(super) fn new(environment: Environment, runtime: Arc<RuntimeEnv>) -> Self {
        Self {
            environment,
            runtime,
            opened: Mutex::default(),
        }
    }

    /// What a URL means; `endpoint` is that of the source, or empty.
    ///
    /// # Errors
    /// `Config` when the URL or the environment makes no sense.
    pub(super) async fn object(&self, kind: ObjectStoreKind, url: &str, endpoint: &str) -> Result<Object> {
        let address = Address::of(kind, url)?;
        let key = Path::parse(address.path)
            .map_err(|error| Error::invalid(format!("`{}` cannot name an object: {error}", address.path)))?;
        // With a scheme of the web, the container is in the path.
        let name = (
            kind,
            format!("{}/{}", address.host, address.bucket),
            endpoint.to_owned(),
        );
        let mut all = self.opened.lock().await;
        if let Some(opened) = all.get(&name) {
            let opened = Arc::clone(opened);
            return Ok(Object { opened, key });
        }
        let endpoint = Some(endpoint).filter(|endpoint| !endpoint.is_empty());
        let store = cloud::open(&address, &self.environment, endpoint, |builder| builder).await?;
        let opened = Arc::new(Opened {
            bucket: Bucket::new(address.bucket, store),
            url: ObjectStoreUrl::parse(format!("bucket://{}", all.len()))?,
            keeps_conditions: OnceCell::new(),
        });
        self.runtime
            .register_object_store(opened.url.as_ref(), Arc::new(opened.bucket.clone()));
        all.insert(name, Arc::clone(&opened));
        Ok(Object { opened, key })
    }
}

impl Object {
    /// The URL by which the query engine knows the object of these parts, or the folder.
    pub(super) fn url(&self, parts: &[&str], is_folder: bool) -> Result<Url, DataFusionError> {
        let url: &Url = self.opened.url.as_ref();
        let mut url = url.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.clear().extend(parts.iter().filter(|part| !part.is_empty()));
            if is_folder {
                path.push("");
            }
        }
        Ok(url)
    }

    /// Refuses a store on which two who write could lose each other's rows.
    pub(super) async fn check_conditions(&self) -> Result<()> {
        let probe = self
            .key
            .clone()
            .join(format!("probe-{}", uuid::Uuid::new_v4().simple()));
        let options = PutOptions::from(PutMode::Create);
        let asked = || async { cloud::keeps_conditions(&self.opened.bucket, &probe, &options).await };
        if *self.opened.keeps_conditions.get_or_try_init(asked).await? {
            return Ok(());
        }
        Err(Error::unsupported(format!(
            "{} ignores the conditions of writes, so that two who write could lose each other's rows",
            self.opened.bucket
        ))
        .hint("use a store that supports `If-Match` and `If-None-Match` on PUT, or make the source a folder"))
    }
}

/// Reads each object as the content that it had when the scan was planned; another one is an error.
#[derive(Debug)]
pub(super) struct OneContent {
    pub(super) bucket: Bucket,
    pub(super) footers: Arc<FileMetadataCache>,
}

impl ParquetFileReaderFactory for OneContent {
    fn create_reader(
        &self,
        partition: usize,
        file: PartitionedFile,
        metadata_size_hint: Option<usize>,
        metrics: &ExecutionPlanMetricsSet,
    ) -> Result<Box<dyn AsyncFileReader + Send>, DataFusionError> {
        let bucket = Arc::new(self.bucket.pinned(&file.object_meta));
        let readers = CachedParquetFileReaderFactory::new(bucket, Arc::clone(&self.footers));
        readers.create_reader(partition, file, metadata_size_hint, metrics)
    }
}
