//! Writing file sources. A file is never changed in place: a new one is written beside it, flushed to disk
//! and renamed over it, so readers see the old rows or the new ones, and a failure leaves the old.

use std::{
    ffi::OsStr,
    fs::{File, Permissions},
    io::{Read, Seek, SeekFrom, Write},
    os::unix::{ffi::OsStrExt, fs::PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use arrow::{
    compute::{CastOptions, cast_with_options},
    csv,
    datatypes::{Schema, SchemaRef},
    record_batch::RecordBatch,
};
use datafusion::execution::{SendableRecordBatchStream, SessionState};
use futures::StreamExt;
use parquet::{
    arrow::{ArrowWriter, arrow_reader::ParquetRecordBatchReaderBuilder},
    basic::{Compression, ZstdLevel},
    file::{metadata::KeyValue, properties::WriterProperties},
};
use tempfile::NamedTempFile;

use super::{
    location::{Format, Location, Shape},
    note::NOTE,
    table::Table,
};
use crate::{
    durable::{self, sync_folder},
    error::{Error, Kind, Result},
    offline::store::{Note, check_columns},
    proto::feast::core::DataSource,
};

/// Batches that may wait for the disk.
const WAITING: usize = 4;

/// Rows as a source has them.
pub(super) struct Rows {
    pub(super) schema: SchemaRef,
    pub(super) batches: Vec<RecordBatch>,
    pub(super) count: u64,
}

impl Rows {
    /// # Errors
    /// `InvalidArgument` when they do not have the source's columns, `Unsupported` when a row would have to be put in a folder of its own.
    pub(super) fn of(table: &Table, source: &DataSource, batches: &[RecordBatch]) -> Result<Self> {
        if table.is_partitioned() {
            return Err(Error::unsupported(format!(
                "data source `{}` is a partitioned folder: rows cannot be added",
                source.name
            ))
            .hint("write to a source that is one file or one flat folder"));
        }
        let schema = Arc::clone(table.stored());
        let batches = batches
            .iter()
            .map(|batch| fitted(batch, &schema, source))
            .collect::<Result<Vec<_>>>()?;
        let count = batches.iter().map(|batch| batch.num_rows() as u64).sum();
        Ok(Self {
            schema,
            batches,
            count,
        })
    }

    /// Writes them as a file.
    pub(super) fn write(&self, path: &Path, format: Format) -> Result<()> {
        self.written(path, format)?.finish()
    }

    fn written(&self, path: &Path, format: Format) -> Result<Writer> {
        let mut writer = Writer::create(path, format, &self.schema, None)?;
        self.batches.iter().try_for_each(|batch| writer.write(batch))?;
        Ok(writer)
    }
}

/// Refuses to add rows to what is neither file nor folder.
pub(super) fn check_source(location: &Location, source: &DataSource) -> Result<()> {
    let what = match location.shape {
        Shape::Pattern => "a pattern of files",
        Shape::Delta => "a Delta table, which thali only reads",
        Shape::File | Shape::Folder | Shape::Absent => return Ok(()),
    };
    Err(Error::unsupported(format!(
        "data source `{}` is {what}: rows cannot be added",
        source.name
    ))
    .hint("write to a source that is one file or one folder"))
}

/// The name of a new file in a folder.
pub(super) fn part_name(id: uuid::Uuid, format: Format) -> String {
    format!("part-{}{}", id.simple(), format.extension())
}

/// Adds rows to a source: to its file, or as a new file of its folder.
pub(super) async fn append(
    state: &SessionState,
    path: &Path,
    location: &Location,
    source: &DataSource,
    batches: Vec<RecordBatch>,
    marker: Option<&Path>,
) -> Result<u64> {
    let once = marker.map(Once::new);
    if let Some(once) = once.clone()
        && blocking(move || once.is_done()).await?
    {
        return Ok(0);
    }
    // Held from the look at the file to its replacement: what is read here is what is extended.
    let alone = match location.shape {
        Shape::Folder | Shape::Pattern | Shape::Delta | Shape::Absent => None,
        Shape::File => {
            let path = path.to_owned();
            Some(blocking(move || lock(&path)).await?)
        }
    };
    // Its length may be another one than before others were waited for.
    let location = Location {
        size: std::fs::metadata(path).map_or(0, |metadata| metadata.len()),
        ..location.clone()
    };
    let table = Table::open(state, &location, source).await?;
    let rows = Rows::of(&table, source, &batches)?;
    let count = rows.count;
    if count == 0 {
        return Ok(0);
    }
    let path = path.to_owned();
    blocking(move || match location.shape {
        Shape::Folder => {
            let path = path.join(part_name(uuid::Uuid::now_v7(), location.format));
            rows.written(&path, location.format)?.settle(once.as_ref())
        }
        _ => {
            extended(&path, location.format, &rows.batches)?.settle(once.as_ref())?;
            drop(alone);
            Ok(())
        }
    })
    .await?;
    Ok(count)
}

/// Puts a file with more rows at its end in its place.
pub(super) fn extend(path: &Path, format: Format, batches: &[RecordBatch]) -> Result<()> {
    extended(path, format, batches)?.finish()
}

/// Copies a file with more rows at its end. The caller sees to it that nobody else does.
fn extended(path: &Path, format: Format, batches: &[RecordBatch]) -> Result<Writer> {
    let failed =
        |error: &dyn std::fmt::Display| Error::unavailable(format!("reading `{}`: {error}", path.display()));
    let old = File::open(path).map_err(|error| failed(&error))?;
    match format {
        Format::Parquet => {
            let reader = ParquetRecordBatchReaderBuilder::try_new(old).map_err(|error| failed(&error))?;
            let columns = reader
                .metadata()
                .row_groups()
                .first()
                .and_then(|group| group.columns().first());
            let compression = columns.map(parquet::file::metadata::ColumnChunkMetaData::compression);
            let schema = Arc::clone(reader.schema());
            let mut writer = Writer::create(path, format, &schema, compression)?;
            for batch in reader.build().map_err(|error| failed(&error))? {
                writer.write(&batch?)?;
            }
            for batch in batches {
                writer.write(&RecordBatch::try_new(
                    Arc::clone(&schema),
                    batch.columns().to_vec(),
                )?)?;
            }
            Ok(writer)
        }
        Format::Csv => {
            let mut writer = Writer::empty(path)?;
            let is_empty = writer.copy(old)?;
            writer.start_csv(is_empty)?;
            batches.iter().try_for_each(|batch| writer.write(batch))?;
            Ok(writer)
        }
    }
}

/// Refuses to save where more than one file is, or where one is that is not to be replaced.
pub(super) fn check_target(location: &Location, overwrite: bool) -> Result<()> {
    match location.shape {
        Shape::Delta => Err(Error::unsupported(format!(
            "`{}` is to be a Delta table, which thali only reads: nothing can be saved there",
            location.name
        ))
        .hint("save to a file of its own, in Parquet")),
        Shape::Folder | Shape::Pattern => Err(Error::unsupported(format!(
            "`{}` is no single file: nothing can be saved there",
            location.name
        ))
        .hint("give the saved dataset a file of its own")),
        Shape::File if !overwrite => Err(Error::new(
            Kind::AlreadyExists,
            format!("`{}` exists already", location.name),
        )
        .hint("allow overwriting, or choose another path")),
        Shape::File | Shape::Absent => Ok(()),
    }
}

/// Writes a stream as the file `path`.
pub(super) async fn save(
    path: &Path,
    location: &Location,
    mut rows: SendableRecordBatchStream,
    note: Option<Note>,
) -> Result<u64> {
    let replaces = location.shape == Shape::File;
    let (schema, path, format) = (rows.schema(), path.to_owned(), location.format);
    let (sender, mut receiver) = tokio::sync::mpsc::channel::<RecordBatch>(WAITING);
    let (done, complete) = tokio::sync::oneshot::channel::<()>();
    let writing = blocking(move || {
        let _lock = replaces.then(|| lock(&path)).transpose()?;
        let mut writer = Writer::create(&path, format, &schema, None)?;
        let mut count = 0;
        while let Some(batch) = receiver.blocking_recv() {
            writer.write(&batch)?;
            count += batch.num_rows() as u64;
        }
        // Without this word the rows ended early: what was written is dropped.
        complete
            .blocking_recv()
            .map_err(|_| Error::unavailable("the rows to save ended early"))?;
        if let Some(note) = note {
            writer.note(note()?);
        }
        if replaces {
            writer.finish()?
        } else {
            writer.finish_new()?
        };
        Ok(count)
    });
    let feeding = async move {
        while let Some(batch) = rows.next().await {
            if sender.send(batch?).await.is_err() {
                // The writer gave up; it says why.
                return Ok(());
            }
        }
        let _ = done.send(());
        Ok::<_, Error>(())
    };
    let (fed, written) = tokio::join!(feeding, writing);
    fed?;
    written
}

/// The marker of a write that is to happen once: the name of the new file, which is complete, until it has
/// its place. As long as that file is there, it did not get its place, and the write did not happen.
#[derive(Debug, Clone)]
struct Once {
    marker: PathBuf,
}

impl Once {
    fn new(marker: &Path) -> Self {
        Self {
            marker: marker.to_owned(),
        }
    }

    fn failed(&self, error: &std::io::Error) -> Error {
        Error::unavailable(format!("marking a write in `{}`: {error}", self.marker.display()))
    }

    /// Whether the write has happened; what an interrupted one left is removed.
    fn is_done(&self) -> Result<bool> {
        let failed = |error| self.failed(&error);
        let name = match std::fs::read(&self.marker) {
            Ok(name) => name,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(failed(error)),
        };
        let written = Path::new(OsStr::from_bytes(&name));
        if !written.try_exists().map_err(failed)? {
            return Ok(true);
        }
        // The marker goes first: without its file it would say that the write has happened.
        std::fs::remove_file(&self.marker).map_err(failed)?;
        sync_folder(&self.marker).map_err(failed)?;
        std::fs::remove_file(written).map_err(failed)?;
        Ok(false)
    }

    /// Gives the complete file `written` its place.
    fn put(&self, written: &Path, path: &Path) -> Result<()> {
        let failed = |error| self.failed(&error);
        let written = std::path::absolute(written).map_err(failed)?;
        durable::replace(&self.marker, written.as_os_str().as_bytes()).map_err(failed)?;
        sync_folder(&written).map_err(failed)?;
        std::fs::rename(&written, path).map_err(failed)?;
        sync_folder(path).map_err(failed)
    }
}

pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| Error::internal(format!("writing ended early: {error}")))?
}

/// Keeps other writers of the same file waiting, in this process and in others, until it is dropped.
fn lock(path: &Path) -> Result<File> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let beside = path.with_file_name(format!(".{name}.lock"));
    let failed =
        |error: std::io::Error| Error::unavailable(format!("locking `{}`: {error}", beside.display()));
    if let Some(folder) = beside.parent() {
        std::fs::create_dir_all(folder).map_err(failed)?;
    }
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&beside)
        .map_err(failed)?;
    file.lock().map_err(failed)?;
    Ok(file)
}

/// The batch with exactly the stored columns, in their order and types.
fn fitted(batch: &RecordBatch, stored: &Schema, source: &DataSource) -> Result<RecordBatch> {
    let given = batch.schema();
    // Rows may name a column as it is stored or as the source maps it.
    let name_of = |stored: &String| {
        source
            .field_mapping
            .get(stored)
            .filter(|mapped| given.index_of(mapped).is_ok())
    };
    let mut columns = Vec::with_capacity(stored.fields().len());
    let (mut missing, mut used) = (Vec::new(), Vec::new());
    for field in stored.fields() {
        let found = given
            .index_of(field.name())
            .ok()
            .or_else(|| given.index_of(name_of(field.name())?).ok());
        let Some(place) = found else {
            missing.push(field.name().as_str());
            continue;
        };
        used.push(place);
        let options = CastOptions {
            safe: false,
            ..CastOptions::default()
        };
        let column =
            cast_with_options(batch.column(place), field.data_type(), &options).map_err(|error| {
                let (from, to) = (given.field(place).data_type(), field.data_type());
                Error::invalid(format!(
                    "column `{}` of type {from} does not fit {to}: {error}",
                    field.name()
                ))
            })?;
        if !field.is_nullable() && column.null_count() > 0 {
            return Err(Error::invalid(format!(
                "column `{}` of `{}` may not be null",
                field.name(),
                source.name
            )));
        }
        columns.push(column);
    }
    let place = format!("data source `{}`", source.name);
    check_columns(&given, &used, &missing, &place)?;
    Ok(RecordBatch::try_new(Arc::new(stored.clone()), columns)?)
}

enum Encoder {
    Raw(NamedTempFile),
    Parquet(Box<ArrowWriter<NamedTempFile>>),
    Csv(Box<csv::Writer<NamedTempFile>>),
}

/// A file on its way: dropped unless it is finished.
struct Writer {
    path: PathBuf,
    encoder: Option<Encoder>,
}

impl Writer {
    fn empty(path: &Path) -> Result<Self> {
        let folder = path.parent().unwrap_or(Path::new("."));
        let failed =
            |error: std::io::Error| Error::unavailable(format!("writing `{}`: {error}", path.display()));
        std::fs::create_dir_all(folder).map_err(failed)?;
        let permissions =
            std::fs::metadata(path).map_or(Permissions::from_mode(0o666), |found| found.permissions());
        let file = tempfile::Builder::new()
            .prefix(".")
            .suffix(".tmp")
            .permissions(permissions)
            .tempfile_in(folder);
        Ok(Self {
            path: path.to_owned(),
            encoder: Some(Encoder::Raw(file.map_err(failed)?)),
        })
    }

    fn create(
        path: &Path,
        format: Format,
        schema: &SchemaRef,
        compression: Option<Compression>,
    ) -> Result<Self> {
        let mut writer = Self::empty(path)?;
        match format {
            Format::Csv => writer.start_csv(true)?,
            Format::Parquet => {
                let file = writer.take_raw()?;
                let compression = compression.unwrap_or(Compression::ZSTD(ZstdLevel::default()));
                let properties = WriterProperties::builder().set_compression(compression).build();
                let encoder = ArrowWriter::try_new(file, Arc::clone(schema), Some(properties));
                writer.encoder = Some(Encoder::Parquet(Box::new(
                    encoder.map_err(|error| writer.failed(&error))?,
                )));
            }
        }
        Ok(writer)
    }

    fn failed(&self, error: &dyn std::fmt::Display) -> Error {
        Error::unavailable(format!("writing `{}`: {error}", self.path.display()))
    }

    fn take_raw(&mut self) -> Result<NamedTempFile> {
        match self.encoder.take() {
            Some(Encoder::Raw(file)) => Ok(file),
            _ => Err(Error::internal("a file was started twice")),
        }
    }

    /// Copies a text file, its last line ended; answers whether it was empty.
    fn copy(&mut self, mut old: File) -> Result<bool> {
        let mut file = self.take_raw()?;
        let copied = std::io::copy(&mut old, &mut file).and_then(|size| {
            let mut last = [b'\n'];
            if size > 0 {
                old.seek(SeekFrom::End(-1))?;
                old.read_exact(&mut last)?;
            }
            if last != *b"\n" {
                file.write_all(b"\n")?;
            }
            Ok(size == 0)
        });
        self.encoder = Some(Encoder::Raw(file));
        copied.map_err(|error| self.failed(&error))
    }

    fn start_csv(&mut self, header: bool) -> Result<()> {
        let file = self.take_raw()?;
        let writer = csv::WriterBuilder::new().with_header(header).build(file);
        self.encoder = Some(Encoder::Csv(Box::new(writer)));
        Ok(())
    }

    fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        let written = match &mut self.encoder {
            Some(Encoder::Parquet(writer)) => writer.write(batch).map_err(|error| error.to_string()),
            Some(Encoder::Csv(writer)) => writer.write(batch).map_err(|error| error.to_string()),
            _ => Err("the file was not started".to_owned()),
        };
        written.map_err(|error| self.failed(&error))
    }

    /// Keeps a text with the rows, in a file that has a place for it.
    fn note(&mut self, text: String) {
        if let Some(Encoder::Parquet(writer)) = &mut self.encoder {
            writer.append_key_value_metadata(KeyValue::new(NOTE.to_owned(), text));
        }
    }

    /// Puts the file in its place, over what is there.
    fn finish(mut self) -> Result<()> {
        let file = self.complete()?;
        file.persist(&self.path)
            .map_err(|error| self.failed(&error.error))?;
        Ok(())
    }

    /// As [`Writer::finish`], under the marker if there is one.
    fn settle(mut self, once: Option<&Once>) -> Result<()> {
        let Some(once) = once else {
            return self.finish();
        };
        let file = self.complete()?;
        let (_, written) = file.keep().map_err(|error| self.failed(&error.error))?;
        once.put(&written, &self.path)
    }

    /// Puts the file in its place if nothing has come there meanwhile.
    fn finish_new(mut self) -> Result<()> {
        let file = self.complete()?;
        file.persist_noclobber(&self.path)
            .map_err(|error| match error.error.kind() {
                std::io::ErrorKind::AlreadyExists => Error::new(
                    Kind::AlreadyExists,
                    format!("`{}` exists already", self.path.display()),
                ),
                _ => self.failed(&error.error),
            })?;
        Ok(())
    }

    /// Ends the file's contents and sees them onto the disk.
    fn complete(&mut self) -> Result<NamedTempFile> {
        let file = match self.encoder.take() {
            Some(Encoder::Raw(file)) => file,
            Some(Encoder::Csv(writer)) => writer.into_inner(),
            Some(Encoder::Parquet(writer)) => writer.into_inner().map_err(|error| self.failed(&error))?,
            None => return Err(Error::internal("a file was finished twice")),
        };
        file.as_file().sync_all().map_err(|error| self.failed(&error))?;
        Ok(file)
    }
}
