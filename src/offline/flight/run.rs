//! Runs parsed commands against the catalog and the offline store.

use std::{sync::Arc, time::Duration};

use arrow::{
    array::{ArrayRef, StringArray},
    record_batch::RecordBatch,
};
use chrono::Utc;
use datafusion::{execution::SendableRecordBatchStream, physical_plan::stream::RecordBatchStreamAdapter};
use uuid::Uuid;

use super::{
    Upload, arrow_names,
    beyond::{KNOWN_AS_OF, NOTE, Receipt},
    command::{Historical, Persisted, PullCommand, Read, Write},
    once::{Mark, Marks},
};
use crate::{
    context::Context,
    error::{Error, Kind, Result},
    model::ObjectKind,
    offline::{
        dataset::{self, each_once, manifest::Definition},
        postgres::Source,
        retrieve::{Alias, HistoricalRequest, RequestRows, Wanted, historical, observed},
        served_log::LogPlace,
        store::{Appended, Note, Pull},
    },
    proto::feast::core::DataSource,
};

/// Answers a read.
pub(super) async fn read(context: &Context, read: Read, upload: Upload) -> Result<SendableRecordBatchStream> {
    let api = read.api();
    match read {
        Read::Historical(command) => features(context, command, upload).await,
        Read::Pull(command) => observed(&context.metrics, api, pull(context, command)).await,
        Read::Columns(source) => observed(&context.metrics, api, columns(context, &source)).await,
        Read::Note { data_source } => observed(&context.metrics, api, note(context, &data_source)).await,
    }
}

/// Does a write; there is a receipt for one that is to happen once.
pub(super) async fn write(
    context: &Context,
    marks: &Marks,
    write: Write,
    upload: Upload,
) -> Result<Option<Receipt>> {
    match write {
        Write::Append { view, once: None } => append(context, &view, upload, None).await.map(|_| None),
        Write::Append {
            view,
            once: Some(once),
        } => {
            let mark = marks.hold(once).await?;
            append(context, &view, upload, Some(mark)).await.map(Some)
        }
        Write::Logs { service, once } => {
            let rows = logs(context, &service, upload, once).await?;
            Ok(once.map(|_| Receipt {
                rows,
                refused: Vec::new(),
            }))
        }
        Write::Validate(source) => validate(context, &source).await.map(|()| None),
        Write::Persist {
            data_source,
            allow_overwrite,
            timeout,
            rows,
        } => {
            let work = async {
                match rows {
                    Persisted::Read(read) => {
                        persist(context, &data_source, allow_overwrite, read, upload).await
                    }
                    Persisted::Given { place, note } => {
                        let target =
                            target(context, &data_source, place.map(|place| *place), allow_overwrite);
                        let (target, allow_overwrite) = target.await?;
                        keep(context, target, allow_overwrite, upload, note).await
                    }
                }
            };
            let done = match timeout.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()) {
                None => work.await,
                Some(limit) => tokio::time::timeout(limit, work).await.unwrap_or_else(|_| {
                    let message = format!("the result was not saved within {} s", limit.as_secs_f64());
                    Err(Error::new(Kind::DeadlineExceeded, message))
                }),
            };
            done.map(|()| None)
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
        Err(error) => match LogPlace::called(&catalog, name)? {
            Some(log) => Ok(log.source()),
            // A saved dataset's rows need not be a source.
            None => dataset::source_of(catalog.object(ObjectKind::SavedDataset, name).ok_or(error)?),
        },
    }
}

/// Where rows that were given are to be saved, and whether over what is there. What is registered nowhere is a
/// new table: a name that anybody may send must not lead to a file of this machine, or replace a table.
async fn target(
    context: &Context,
    name: &str,
    place: Option<DataSource>,
    allow_overwrite: bool,
) -> Result<(DataSource, bool)> {
    let catalog = context.registry.fresh_catalog(&context.config.project).await?;
    if let Some(source) = catalog.object(ObjectKind::DataSource, name) {
        let source = batch_source(source.decode()?);
        return match place {
            Some(place) if place.options != source.options => Err(Error::invalid(format!(
                "data source `{name}` lies elsewhere than where rows are to be saved under its name"
            ))
            .hint("give the saved dataset another name, or the place of the data source")),
            _ => Ok((source, allow_overwrite)),
        };
    }
    let place = place.filter(|place| matches!(Source::of(place), Ok(Some(Source::Table(_)))));
    let place = place.ok_or_else(|| {
        Error::new(
            Kind::DataSourceNotFound,
            format!(
                "rows can be saved in tables, and at data sources that are registered, which `{name}` is not"
            ),
        )
    })?;
    let known = catalog
        .object(ObjectKind::SavedDataset, name)
        .map(|dataset| dataset::source_of(dataset));
    let is_there = known
        .transpose()?
        .is_some_and(|known| known.options == place.options);
    Ok((place, allow_overwrite && is_there))
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

async fn note(context: &Context, name: &str) -> Result<SendableRecordBatchStream> {
    let source = data_source(context, name).await?;
    let note = context.offline.note(&source).await?;
    let column: ArrayRef = Arc::new(StringArray::from_iter_values(note));
    one_batch(RecordBatch::try_from_iter([(NOTE, column)])?)
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

async fn append(context: &Context, view: &str, upload: Upload, mark: Option<Mark>) -> Result<Receipt> {
    let catalog = context.registry.fresh_catalog(&context.config.project).await?;
    let view = catalog.stored_view(view)?;
    let source = view.batch_source.clone().ok_or_else(|| {
        Error::invalid(format!(
            "feature view `{}` has no batch source to write to",
            view.name
        ))
    })?;
    let offline = Arc::clone(&context.offline);
    let Some(mark) = mark else {
        let work = async move { offline.append(&source, upload.batches, None).await };
        return context.background.run(work).await.map(receipt);
    };
    // It goes on when nobody waits for it any more: given up half-way, it might be done by two at a time.
    let work = async move { offline.append(&source, upload.batches, Some(mark.path())).await };
    let done = context.background.handle().spawn(work).await;
    done.map_err(|error| Error::internal("background work ended unexpectedly").source_error(error))?
        .map(receipt)
}

fn receipt(Appended { rows, refused }: Appended) -> Receipt {
    Receipt { rows, refused }
}

async fn logs(context: &Context, service: &str, upload: Upload, once: Option<Uuid>) -> Result<u64> {
    let catalog = context.registry.fresh_catalog(&context.config.project).await?;
    let spec = catalog.service(service)?.spec.clone().unwrap_or_default();
    let place = LogPlace::of(&spec)?;
    let offline = Arc::clone(&context.offline);
    let work = async move { place.append(&offline, upload.batches, once).await };
    context.background.run(work).await
}

/// Saves rows that were given.
async fn keep(
    context: &Context,
    target: DataSource,
    overwrite: bool,
    upload: Upload,
    note: Option<String>,
) -> Result<()> {
    let offline = Arc::clone(&context.offline);
    let batches = futures::stream::iter(upload.batches.into_iter().map(Ok));
    let rows = Box::pin(RecordBatchStreamAdapter::new(upload.schema, batches));
    let note = note.map(|text| -> Note { Box::new(move || Ok(text)) });
    let work = async move { offline.save(&target, rows, overwrite, note).await };
    context.background.run(work).await.map(drop)
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
        Read::Pull(_) | Read::Columns(_) | Read::Note { .. } => None,
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
