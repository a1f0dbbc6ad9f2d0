//! Saved datasets as rows that can be trusted: what they were made of ([`manifest`]), whether the same comes
//! out again ([`verify`]), what moved between two of them ([`compare`]), and whether the values of one are
//! distributed like those of another ([`validate`]).
//!
//! Datasets are made by `crate::registry::datasets`, or by the SDK over `super::flight`; here their rows are
//! saved and read.

mod cells;
pub mod compare;
mod drift;
pub mod manifest;
mod save;
mod statistics;
pub mod validate;
pub mod verify;

use std::{collections::BTreeSet, sync::Arc};

use arrow::datatypes::{DataType, Schema, SchemaRef};
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use datafusion::execution::SendableRecordBatchStream;
use futures::TryStreamExt;

use self::manifest::Manifest;
pub(crate) use self::save::save;
use super::{
    postgres,
    retrieve::{Alias, HistoricalRequest, RequestRows, Wanted, historical},
    served_log::LogPlace,
    store::{OfflineStore, Pull, listed},
};
use crate::{
    context::Context,
    error::{Error, Result},
    model::{FeatureRef, Object, ObjectKind},
    proto::feast::core::{self, DataSource, SavedDatasetSpec, data_source, saved_dataset_storage},
    registry::Catalog,
};

/// Columns that Feast takes for the time of a row, in this order.
const TIMES: [&str; 3] = ["event_timestamp", "datetime", "timestamp"];

/// The first moment of rows and their last, both included; where there is none, the window is open.
pub type Window = (Option<DateTime<Utc>>, Option<DateTime<Utc>>);

/// Rows that can be read more than once.
#[async_trait]
pub trait Readable: Send + Sync {
    /// All of them, from the start.
    async fn read(&self) -> Result<SendableRecordBatchStream>;
}

/// A saved dataset, to be read from where it lies.
pub struct Dataset {
    pub name: String,
    project: String,
    spec: SavedDatasetSpec,
    source: DataSource,
    offline: Arc<dyn OfflineStore>,
}

impl Dataset {
    /// The dataset of that name.
    ///
    /// # Errors
    /// `SavedDatasetNotFound`; `Unsupported` when it lies where nothing is read.
    pub fn open(context: &Context, catalog: &Catalog, name: &str) -> Result<Self> {
        let object = catalog.require(ObjectKind::SavedDataset, name)?;
        Ok(Self {
            name: name.to_owned(),
            project: catalog.project().to_owned(),
            spec: spec_of(object)?,
            source: source_of(object)?,
            offline: Arc::clone(&context.offline),
        })
    }

    /// What it was made of, if thali made it, for itself or for the SDK.
    ///
    /// # Errors
    /// `InvalidArgument` when that is malformed, and what the offline store returns.
    pub async fn manifest(&self) -> Result<Option<Manifest>> {
        if let Some(manifest) = Manifest::of_tags(&self.spec.tags)? {
            return Ok(Some(manifest));
        }
        match self.offline.note(&self.source).await? {
            Some(note) => Manifest::of_note(&note),
            None => Ok(None),
        }
    }

    /// The names of the entities' columns.
    pub fn join_keys(&self) -> &[String] {
        &self.spec.join_keys
    }

    /// The columns that tell its rows apart: join keys and the time, as far as it has them.
    ///
    /// # Errors
    /// What the offline store returns.
    pub async fn key(&self) -> Result<Vec<String>> {
        let schema = self.offline.schema(&self.source).await?;
        let keys = self.spec.join_keys.iter();
        let mut key: Vec<String> = keys.filter(|key| schema.index_of(key).is_ok()).cloned().collect();
        let time = time_column(&schema);
        if !time.is_empty() && !key.contains(&time) {
            key.push(time);
        }
        Ok(key)
    }

    fn wanted(&self) -> Wanted {
        match self.spec.feature_service_name.as_str() {
            "" => Wanted::features(each_once(&self.spec.features)),
            service => Wanted::Service(service.to_owned()),
        }
    }

    /// What was asked for when it was made: of the SDK an offline server is told only which features a service has.
    fn asked(&self, catalog: &Catalog, manifest: Option<&Manifest>) -> Wanted {
        match (self.wanted(), manifest) {
            (Wanted::Service(service), Some(manifest)) if !manifest.definition.is_of_service() => {
                let service = catalog
                    .service(&service)
                    .ok()
                    .and_then(|service| service.spec.as_ref());
                let projections = service.into_iter().flat_map(|spec| &spec.features);
                let aliases = projections.map(|projection| Alias {
                    view: projection.feature_view_name.clone(),
                    alias: projection.feature_view_name_alias.clone(),
                });
                Wanted::Features {
                    references: each_once(&self.spec.features),
                    aliases: aliases.filter(|alias| !alias.alias.is_empty()).collect(),
                }
            }
            (wanted, _) => wanted,
        }
    }

    /// Its columns, without those in which an index of pandas travels.
    async fn columns(&self) -> Result<Vec<String>> {
        let schema = self.offline.schema(&self.source).await?;
        let names = schema.fields().iter().map(|field| field.name());
        Ok(names
            .filter(|name| !name.starts_with("__index_level_"))
            .cloned()
            .collect())
    }

    /// The columns that came with the entity rows: those that are no feature.
    async fn entity_columns(&self, catalog: &Catalog) -> Result<Vec<String>> {
        let features = self.feature_columns(catalog)?;
        let mut columns = self.columns().await?;
        columns.retain(|name| !features.contains(name));
        Ok(columns)
    }

    fn feature_columns(&self, catalog: &Catalog) -> Result<BTreeSet<String>> {
        let full = self.spec.full_feature_names;
        let name = |view: &str, version: Option<u32>, feature: &str| match (full, version) {
            (false, _) => feature.to_owned(),
            (true, None) => format!("{view}__{feature}"),
            (true, Some(version)) => format!("{view}@v{version}__{feature}"),
        };
        let mut names = BTreeSet::new();
        for reference in &self.spec.features {
            let reference = FeatureRef::parse(reference)?;
            names.insert(name(&reference.view, reference.version, &reference.feature));
        }
        if let Ok(service) = catalog.service(&self.spec.feature_service_name) {
            let projections = service.spec.iter().flat_map(|spec| &spec.features);
            for projection in projections {
                let view = match projection.feature_view_name_alias.as_str() {
                    "" => &projection.feature_view_name,
                    alias => alias,
                };
                let version = projection.version_tag.and_then(|tag| u32::try_from(tag).ok());
                let columns = projection.feature_columns.iter();
                names.extend(columns.map(|column| name(view, version, &column.name)));
            }
        }
        Ok(names)
    }
}

#[async_trait]
impl Readable for Dataset {
    async fn read(&self) -> Result<SendableRecordBatchStream> {
        let columns = self.columns().await?;
        columns_of(&self.offline, self.source.clone(), columns, (None, None)).await
    }
}

/// A dataset made anew from its entity rows and the definitions that there are now.
struct Rebuilt<'a> {
    context: &'a Context,
    catalog: &'a Catalog,
    dataset: &'a Dataset,
}

#[async_trait]
impl Readable for Rebuilt<'_> {
    async fn read(&self) -> Result<SendableRecordBatchStream> {
        let dataset = self.dataset;
        let columns = dataset.entity_columns(self.catalog).await?;
        let rows = columns_of(&dataset.offline, dataset.source.clone(), columns, (None, None)).await?;
        let request = HistoricalRequest {
            rows: RequestRows::Given {
                schema: rows.schema(),
                batches: rows.try_collect().await?,
            },
            wanted: dataset.wanted(),
            full_feature_names: dataset.spec.full_feature_names,
            filter_by_created: false,
        };
        let rows = historical(self.context, &dataset.project, request).await?;
        // What is compared is what would lie there.
        dataset.offline.as_saved(&dataset.source, rows)
    }
}

/// What a feature service logged of served requests.
pub struct ServedLog {
    source: DataSource,
    window: Window,
    offline: Arc<dyn OfflineStore>,
}

impl ServedLog {
    /// The log of a service, of requests in a window.
    ///
    /// # Errors
    /// `FeatureServiceNotFound`, and as [`LogPlace::of`].
    pub fn open(context: &Context, catalog: &Catalog, service: &str, window: Window) -> Result<Self> {
        let spec = catalog.service(service)?.spec.clone().unwrap_or_default();
        let source = LogPlace::of(&spec)?.source();
        Ok(Self {
            source,
            window,
            offline: Arc::clone(&context.offline),
        })
    }
}

#[async_trait]
impl Readable for ServedLog {
    async fn read(&self) -> Result<SendableRecordBatchStream> {
        rows_of(&self.offline, self.source.clone(), self.window).await
    }
}

/// References as they are asked for: the SDK adds the inputs of on-demand views, which may be there already.
pub(crate) fn each_once(references: &[String]) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let each = references.iter().filter(|reference| seen.insert(*reference));
    each.cloned().collect()
}

fn spec_of(dataset: &Object) -> Result<SavedDatasetSpec> {
    Ok(dataset.decode::<core::SavedDataset>()?.spec.unwrap_or_default())
}

/// The place a dataset lies in, as a source to read.
pub(crate) fn source_of(dataset: &Object) -> Result<DataSource> {
    match spec_of(dataset)?.storage.and_then(|storage| storage.kind) {
        Some(storage) => place_of(&dataset.name, storage),
        None => Err(Error::invalid(format!(
            "saved dataset `{}` does not say where it lies",
            dataset.name
        ))),
    }
}

/// Where a dataset lies, as a source to read and to write.
///
/// # Errors
/// `Unsupported` when that is neither files nor a table of PostgreSQL.
pub(crate) fn place_of(name: &str, storage: saved_dataset_storage::Kind) -> Result<DataSource> {
    let table = match storage {
        saved_dataset_storage::Kind::FileStorage(file) => return Ok(file_source(name.to_owned(), file)),
        saved_dataset_storage::Kind::CustomStorage(custom) => postgres::table_of_storage(&custom),
        _ => None,
    };
    let table = table.ok_or_else(|| {
        Error::unsupported(format!(
            "saved dataset `{name}` lies neither in files nor in a table of PostgreSQL"
        ))
    })?;
    let options = postgres::options(name, &postgres::Source::Table(table));
    Ok(DataSource {
        name: name.to_owned(),
        r#type: data_source::SourceType::CustomSource.into(),
        data_source_class_type: postgres::SOURCE_CLASS.to_owned(),
        options: Some(data_source::Options::CustomOptions(options)),
        ..Default::default()
    })
}

/// A file or folder as a source that says nothing about its times.
pub(crate) fn file_source(name: String, file: data_source::FileOptions) -> DataSource {
    DataSource {
        name,
        r#type: data_source::SourceType::BatchFile.into(),
        options: Some(data_source::Options::FileOptions(file)),
        ..Default::default()
    }
}

/// Every row of a source.
pub(crate) async fn every_row(
    offline: &Arc<dyn OfflineStore>,
    source: DataSource,
) -> Result<SendableRecordBatchStream> {
    rows_of(offline, source, (None, None)).await
}

async fn rows_of(
    offline: &Arc<dyn OfflineStore>,
    source: DataSource,
    window: Window,
) -> Result<SendableRecordBatchStream> {
    let schema = offline.schema(&source).await?;
    let columns = schema.fields().iter().map(|field| field.name().clone());
    columns_of(offline, source, columns.collect(), window).await
}

/// These columns of the rows of a source.
async fn columns_of(
    offline: &Arc<dyn OfflineStore>,
    mut source: DataSource,
    columns: Vec<String>,
    (start, end): Window,
) -> Result<SendableRecordBatchStream> {
    if source.timestamp_field.is_empty() {
        source.timestamp_field = time_column(&offline.schema(&source).await?);
    }
    let time = &source.timestamp_field;
    let features = columns.into_iter().filter(|name| name != time).collect();
    let pull = Pull {
        source: Arc::new(source),
        join_keys: Vec::new(),
        features,
        start,
        end,
        latest_only: false,
    };
    offline.pull(pull).await
}

/// The column that says when a row was; empty when there is none, of which the store complains if it minds.
fn time_column(schema: &SchemaRef) -> String {
    let is_time = |name: &str| {
        let field = schema.field_with_name(name).ok()?;
        matches!(
            field.data_type(),
            DataType::Timestamp(..) | DataType::Date32 | DataType::Date64
        )
        .then(|| name.to_owned())
    };
    let names = schema.fields().iter().map(|field| field.name().as_str());
    TIMES
        .into_iter()
        .chain(names)
        .find_map(is_time)
        .unwrap_or_default()
}

/// Refuses columns that are not there.
fn require(schema: &Schema, columns: &[String], of: &str) -> Result<()> {
    let missing = columns.iter().filter(|column| schema.index_of(column).is_err());
    let missing: Vec<_> = missing.map(String::as_str).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let has = listed(schema.fields().iter().map(|field| field.name().as_str()));
    Err(Error::invalid(format!(
        "{of} lacks {}; it has {has}",
        listed(missing)
    )))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests;
