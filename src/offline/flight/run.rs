//! Runs parsed commands against the catalog and the offline store.

use std::{sync::Arc, time::Duration};

use arrow::{
    array::{ArrayRef, StringArray},
    record_batch::RecordBatch,
};
use chrono::Utc;
use datafusion::{execution::SendableRecordBatchStream, physical_plan::stream::RecordBatchStreamAdapter};

use super::{
    KNOWN_AS_OF, Upload, arrow_names,
    command::{Historical, PullCommand, Read, Write},
};
use crate::{
    context::Context,
    error::{Error, Kind, Result},
    model::ObjectKind,
    offline::{
        dataset::{self, each_once, manifest::Definition},
        retrieve::{Alias, HistoricalRequest, RequestRows, Wanted, historical, observed},
        served_log::LogPlace,
        store::Pull,
    },
    proto::feast::core::DataSource,
    registry::Catalog,
};

/// Answers a read.
pub(super) async fn read(context: &Context, read: Read, upload: Upload) -> Result<SendableRecordBatchStream> {
    let api = read.api();
    match read {
        Read::Historical(command) => features(context, command, upload).await,
        Read::Pull(command) => observed(&context.metrics, api, pull(context, command)).await,
        Read::Columns(source) => observed(&context.metrics, api, columns(context, &source)).await,
    }
}

/// Does a write.
pub(super) async fn write(context: &Context, write: Write, upload: Upload) -> Result<()> {
    match write {
        Write::Append { view } => append(context, &view, upload).await,
        Write::Logs { service } => logs(context, &service, upload).await,
        Write::Validate(source) => validate(context, &source).await,
        Write::Persist {
            data_source,
            allow_overwrite,
            timeout,
            read,
        } => {
            let work = persist(context, &data_source, allow_overwrite, read, upload);
            match timeout.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()) {
                None => work.await,
                Some(limit) => tokio::time::timeout(limit, work).await.unwrap_or_else(|_| {
                    let message = format!("the result was not saved within {} s", limit.as_secs_f64());
                    Err(Error::new(Kind::DeadlineExceeded, message))
                }),
            }
        }
    }
}

async fn features(
    context: &Context,
    command: Historical,
    upload: Upload,
) -> Result<SendableRecordBatchStream> {
    let wanted = wanted(&command);
    let rows = if !upload.is_placeholder() {
        RequestRows::Given {
            schema: upload.schema,
            batches: upload.batches,
        }
    } else if let Some(sql) = command.sql {
        RequestRows::Sql(sql)
    } else {
        RequestRows::Range {
            start: command.start,
            end: command.end,
        }
    };
    let request = HistoricalRequest {
        rows,
        wanted,
        full_feature_names: command.full_feature_names,
        filter_by_created: command.known_as_of,
    };
    let rows = historical(context, &command.project, request).await?;
    if !command.known_as_of {
        return Ok(rows);
    }
    let mut schema = rows.schema().as_ref().clone();
    schema.metadata.insert(KNOWN_AS_OF.to_owned(), true.to_string());
    Ok(Box::pin(RecordBatchStreamAdapter::new(Arc::new(schema), rows)))
}

fn wanted(command: &Historical) -> Wanted {
    let aliases = command.aliases.iter().cloned();
    Wanted::Features {
        references: each_once(&command.references),
        aliases: aliases.map(|(view, alias)| Alias { view, alias }).collect(),
    }
}

async fn data_source(context: &Context, name: &str) -> Result<DataSource> {
    let catalog = context.registry.fresh_catalog(&context.config.project).await?;
    match catalog.require(ObjectKind::DataSource, name) {
        Ok(source) => Ok(batch_source(source.decode()?)),
        // A service's log is no object of the registry; the SDK reads it as a source called by its path.
        Err(error) => log_called(&catalog, name)?.ok_or(error),
    }
}

fn log_called(catalog: &Catalog, name: &str) -> Result<Option<DataSource>> {
    for service in catalog.objects(ObjectKind::FeatureService) {
        let spec = catalog.service(&service.name)?.spec.as_ref();
        let place = spec.and_then(|spec| LogPlace::of(spec).ok());
        if let Some(place) = place.filter(|place| place.is_called(name)) {
            return Ok(Some(place.source()));
        }
    }
    Ok(None)
}

/// The source that holds the history of a push or stream source.
fn batch_source(source: DataSource) -> DataSource {
    match source.batch_source {
        Some(batch) => *batch,
        None => source,
    }
}

/// The SDK names columns as they are stored, expects them back so, and maps them itself.
async fn pull(context: &Context, command: PullCommand) -> Result<SendableRecordBatchStream> {
    let mut source = data_source(context, &command.data_source).await?;
    source.field_mapping.clear();
    source.timestamp_field = command.timestamp_field;
    source.created_timestamp_column = command.created_column.unwrap_or_default();
    let pull = Pull {
        source: Arc::new(source),
        join_keys: command.join_keys,
        features: command.features,
        start: command.start,
        end: command.end,
        latest_only: command.latest_only,
    };
    let offline = Arc::clone(&context.offline);
    context
        .background
        .run(async move { offline.pull(pull).await })
        .await
}

async fn columns(context: &Context, source: &DataSource) -> Result<SendableRecordBatchStream> {
    let schema = context.offline.schema(&batch_source(source.clone())).await?;
    let names = schema.fields().iter().map(|field| field.name().clone());
    let types = schema
        .fields()
        .iter()
        .map(|field| arrow_names::name(field.data_type()));
    let columns: [(&str, ArrayRef); 2] = [
        ("name", Arc::new(StringArray::from_iter_values(names))),
        ("type", Arc::new(StringArray::from_iter_values(types))),
    ];
    one_batch(RecordBatch::try_from_iter(columns)?)
}

fn one_batch(batch: RecordBatch) -> Result<SendableRecordBatchStream> {
    let schema = batch.schema();
    Ok(Box::pin(RecordBatchStreamAdapter::new(
        schema,
        futures::stream::iter([Ok(batch)]),
    )))
}

async fn validate(context: &Context, source: &DataSource) -> Result<()> {
    let source = batch_source(source.clone());
    let schema = context.offline.schema(&source).await?;
    let mapped = source
        .field_mapping
        .iter()
        .find(|(_, mapped)| **mapped == source.timestamp_field);
    let stored = mapped.map_or(&source.timestamp_field, |(stored, _)| stored);
    if !stored.is_empty() && schema.index_of(stored).is_err() {
        let columns =
            crate::offline::store::listed(schema.fields().iter().map(|field| field.name().as_str()));
        return Err(Error::invalid(format!(
            "data source `{}` has no timestamp column `{stored}`; it has {columns}",
            source.name
        )));
    }
    Ok(())
}

async fn append(context: &Context, view: &str, upload: Upload) -> Result<()> {
    let catalog = context.registry.fresh_catalog(&context.config.project).await?;
    let view = catalog.stored_view(view)?;
    let source = view.batch_source.clone().ok_or_else(|| {
        Error::invalid(format!(
            "feature view `{}` has no batch source to write to",
            view.name
        ))
    })?;
    let offline = Arc::clone(&context.offline);
    let work = async move { offline.append(&source, upload.batches, None).await };
    context.background.run(work).await.map(|_| ())
}

async fn logs(context: &Context, service: &str, upload: Upload) -> Result<()> {
    let catalog = context.registry.fresh_catalog(&context.config.project).await?;
    let spec = catalog.service(service)?.spec.clone().unwrap_or_default();
    let place = LogPlace::of(&spec)?;
    let offline = Arc::clone(&context.offline);
    let work = async move { place.append(&offline, upload.batches).await };
    context.background.run(work).await.map(|_| ())
}

async fn persist(
    context: &Context,
    target: &str,
    allow_overwrite: bool,
    from: Read,
    upload: Upload,
) -> Result<()> {
    let target = data_source(context, target).await?;
    let made_of = match &from {
        Read::Historical(command) => {
            let catalog = context.registry.fresh_catalog(&command.project).await?;
            let definition = Definition::of(&catalog, &wanted(command), command.full_feature_names)?;
            Some((definition, Utc::now()))
        }
        Read::Pull(_) | Read::Columns(_) => None,
    };
    let rows = read(context, from, upload).await?;
    let offline = Arc::clone(&context.offline);
    let work = async move {
        match made_of {
            Some(made_of) => dataset::save(offline.as_ref(), &target, rows, allow_overwrite, made_of)
                .await
                .map(drop),
            None => offline.save(&target, rows, allow_overwrite, None).await.map(drop),
        }
    };
    context.background.run(work).await
}
