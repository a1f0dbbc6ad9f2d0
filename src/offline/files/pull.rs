//! Pulling a window of a source: all of its rows, or the newest of each key.

use std::{collections::HashSet, sync::Arc};

use arrow::{
    array::{Array, ArrayRef, BooleanArray, Int64Array, StringArray},
    compute::{cast, filter_record_batch},
    datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit},
    record_batch::RecordBatch,
};
use datafusion::{
    execution::{SendableRecordBatchStream, memory_pool::MemoryConsumer},
    physical_plan::stream::{RecordBatchReceiverStreamBuilder, RecordBatchStreamAdapter},
};
use futures::{StreamExt, stream::select_all};

use super::{
    FileStore,
    parts::place_of,
    table::{Filter, Table},
};
use crate::{
    error::{Error, Result},
    model::feature_view::DUMMY_JOIN_KEY,
    offline::{
        asof::{
            keys::{KeyColumn, KeyTable, NO_KEY, comparable},
            out_of_memory,
            times::{Scale, moments},
            winners::{Candidate, Winners},
        },
        store::{Parts, Pull},
    },
};

/// Batches that may wait for the reader of a pull.
const WAITING: usize = 4;
/// Rows of a batch of newest rows.
const OUTPUT_ROWS: usize = 1 << 14;

/// The partitions of a scan and what its rows are known by.
type Scanned = (Vec<SendableRecordBatchStream>, Option<String>);

/// What every row of a pull goes through.
struct Window {
    /// Columns as the result has them; the last ones are the timestamp and created columns.
    schema: SchemaRef,
    /// Of each result column its place in the scan; none for the key of views without entities.
    places: Vec<Option<usize>>,
    time: usize,
    scale: Scale,
    start: i64,
    end: i64,
}

impl Window {
    fn new(table: &Table, pull: &Pull) -> Result<(Self, Vec<String>)> {
        let mut names = Vec::new();
        let mut seen = HashSet::new();
        let timestamp = table.timestamp()?;
        let created = table.created()?;
        let times = std::iter::once(timestamp).chain(created);
        let all = pull
            .join_keys
            .iter()
            .chain(&pull.features)
            .map(String::as_str)
            .chain(times.clone());
        for name in all {
            if seen.insert(name) {
                names.push(name.to_owned());
            }
        }
        let stored = |name: &String| name != DUMMY_JOIN_KEY || table.has(name);
        let columns: Vec<String> = names.iter().filter(|name| stored(name)).cloned().collect();
        for column in &columns {
            table.require(column, "the pull")?;
        }
        let scanned = table.projected(&columns)?;
        let field = |name: &String| match scanned.field_with_name(name) {
            Ok(field) if times.clone().any(|time| time == name) => {
                Field::new(name, in_utc(field.data_type()), true)
            }
            Ok(field) => field.clone(),
            Err(_) => Field::new(name, DataType::Utf8, false),
        };
        let schema = Arc::new(Schema::new(names.iter().map(field).collect::<Vec<_>>()));
        let types = times
            .filter_map(|time| scanned.field_with_name(time).ok())
            .map(Field::data_type);
        let scale = Scale::finest(types);
        let window = Self {
            schema,
            places: names
                .iter()
                .map(|name| columns.iter().position(|column| column == name))
                .collect(),
            time: scanned.index_of(timestamp)?,
            scale,
            start: pull.start.map_or(i64::MIN, |start| start_tick(start, scale)),
            end: pull.end.map_or(i64::MAX, |end| scale.moment(end)),
        };
        Ok((window, columns))
    }

    /// The rows of a batch that lie in the window, in the result's form.
    fn apply(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        let name = batch.schema_ref().field(self.time).name();
        let times = moments(batch.column(self.time), self.scale, name)?;
        let inside =
            |time: Option<i64>| Some(time.is_some_and(|time| self.start <= time && time <= self.end));
        let inside: BooleanArray = times.iter().map(inside).collect();
        let batch = if inside.true_count() == batch.num_rows() {
            batch.clone()
        } else {
            filter_record_batch(batch, &inside)?
        };
        let column = |(field, place): (&Arc<Field>, &Option<usize>)| -> Result<ArrayRef> {
            let Some(place) = place else {
                return Ok(Arc::new(StringArray::from(vec![""; batch.num_rows()])));
            };
            let column = batch.column(*place);
            if column.data_type() == field.data_type() {
                return Ok(Arc::clone(column));
            }
            match column.data_type() {
                DataType::Timestamp(..) => Ok(cast(column, field.data_type())?),
                _ => Ok(cast(
                    &moments(column, Scale::Micros, field.name())?,
                    field.data_type(),
                )?),
            }
        };
        let columns = self
            .schema
            .fields()
            .iter()
            .zip(&self.places)
            .map(column)
            .collect::<Result<Vec<_>>>()?;
        Ok(RecordBatch::try_new(Arc::clone(&self.schema), columns)?)
    }
}

/// The first tick inside a window that starts at a moment between two ticks.
fn start_tick(start: chrono::DateTime<chrono::Utc>, scale: Scale) -> i64 {
    let tick = scale.moment(start);
    let between = scale == Scale::Micros && !start.timestamp_subsec_nanos().is_multiple_of(1_000);
    tick + i64::from(between)
}

/// The type a time column leaves in: an instant in UTC, at the stored precision.
fn in_utc(stored: &DataType) -> DataType {
    let unit = match stored {
        DataType::Timestamp(unit, _) => *unit,
        _ => TimeUnit::Microsecond,
    };
    DataType::Timestamp(unit, Some("UTC".into()))
}

impl FileStore {
    /// The scan of a pull's window, and what every row of it goes through.
    async fn scan_window(&self, table: &Table, pull: &Pull) -> Result<(Scanned, Window)> {
        let (window, columns) = Window::new(table, pull)?;
        let end = |tick: i64| (tick != i64::MIN && tick != i64::MAX).then_some(tick);
        let filter = Filter::moments(
            table.timestamp()?,
            end(window.start),
            end(window.end),
            window.scale,
        );
        let scanned = table.scan_known(&self.state, &columns, &[filter]).await?;
        Ok((scanned, window))
    }

    /// The partitions of the scan as they are: whoever reads them side by side needs no queue between.
    pub(super) async fn parts_from(&self, table: Table, pull: Pull) -> Result<Parts> {
        let ((partitions, fingerprint), window) = self.scan_window(&table, &pull).await?;
        let window = Arc::new(window);
        let part = |partition: SendableRecordBatchStream| {
            let (schema, window) = (Arc::clone(&window.schema), Arc::clone(&window));
            let rows = partition.map(move |batch| Ok(window.apply(&batch?)?));
            Box::pin(RecordBatchStreamAdapter::new(schema, rows)) as SendableRecordBatchStream
        };
        Ok(Parts {
            streams: partitions.into_iter().map(part).collect(),
            fingerprint,
            in_order: table.is_in_order(),
        })
    }

    pub(super) async fn pull_from(&self, table: Table, pull: Pull) -> Result<SendableRecordBatchStream> {
        let ((partitions, _), window) = self.scan_window(&table, &pull).await?;
        let window = Arc::new(window);
        let partitions: Vec<_> = partitions.into_iter().map(|rows| ahead(rows, &window)).collect();
        if pull.latest_only {
            return self.newest(partitions, &pull.join_keys, &table, &window).await;
        }
        let (schema, all) = (Arc::clone(&window.schema), select_all(partitions));
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, all)))
    }

    /// Keeps the newest row of each key; of equal times the later row of the source. Rows with a null in
    /// their key belong to nobody and are dropped.
    async fn newest(
        &self,
        partitions: Vec<SendableRecordBatchStream>,
        join_keys: &[String],
        table: &Table,
        window: &Window,
    ) -> Result<SendableRecordBatchStream> {
        let (schema, scale) = (Arc::clone(&window.schema), window.scale);
        let mut orders: Vec<u64> = (0..).take(partitions.len()).map(place_of).collect();
        let parts = partitions.into_iter().enumerate();
        let mut rows = select_all(parts.map(|(part, rows)| rows.map(move |batch| (part, batch))));
        let place = |name: &str| schema.index_of(name).map_err(Error::from);
        let keys = join_keys
            .iter()
            .map(|key| place(key))
            .collect::<Result<Vec<_>>>()?;
        let time = place(table.timestamp()?)?;
        let created = table.created()?.map(place).transpose()?;
        let held = MemoryConsumer::new("newest rows").register(&self.pool);
        let mut numbering: Option<KeyTable> = None;
        let mut winners = Winners::new(0);
        let mut numbers = Vec::new();
        while let Some((part, batch)) = rows.next().await {
            let batch = batch?;
            let key = |&key: &usize| {
                let value_type = comparable(schema.field(key).data_type());
                KeyColumn::new(batch.column(key), value_type, schema.field(key).name())
            };
            let columns = keys.iter().map(key).collect::<Result<Vec<_>>>()?;
            let numbering = numbering.get_or_insert_with(|| KeyTable::new(&columns));
            numbering.insert(&columns, batch.num_rows(), &mut numbers);
            winners.grow(numbering.count());
            let times = moments(batch.column(time), scale, schema.field(time).name())?;
            let made = created
                .map(|created| moments(batch.column(created), scale, schema.field(created).name()))
                .transpose()?;
            winners.offer(
                &offers(&numbers, &times, made.as_ref()),
                batch.columns(),
                orders[part],
            )?;
            held.try_resize(winners.memory() + numbering.memory())
                .map_err(|error| out_of_memory(&error))?;
            orders[part] += batch.num_rows() as u64;
        }
        winners.sweep()?;
        let (_, values) = winners.into_parts();
        let rows = values.first().map_or(0, |column| column.len());
        let output = Arc::clone(&schema);
        let batches = futures::stream::iter((0..rows).step_by(OUTPUT_ROWS)).map(move |start| {
            let _ = &held;
            let rows = OUTPUT_ROWS.min(rows - start);
            let columns = values.iter().map(|column| column.slice(start, rows)).collect();
            Ok(RecordBatch::try_new(Arc::clone(&output), columns)?)
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, batches)))
    }
}

/// Reads a partition ahead a little; a reader that stops taking stops it, one that goes ends it.
fn ahead(mut rows: SendableRecordBatchStream, window: &Arc<Window>) -> SendableRecordBatchStream {
    let mut reading = RecordBatchReceiverStreamBuilder::new(Arc::clone(&window.schema), WAITING);
    let (window, sender) = (Arc::clone(window), reading.tx());
    reading.spawn(async move {
        while let Some(batch) = rows.next().await {
            let batch = window.apply(&batch?)?;
            if batch.num_rows() > 0 && sender.send(Ok(batch)).await.is_err() {
                break;
            }
        }
        Ok(())
    });
    reading.build()
}

fn offers(numbers: &[u32], times: &Int64Array, created: Option<&Int64Array>) -> Vec<Candidate> {
    let offer = |(row, &slot): (u32, &u32)| {
        let at = row as usize;
        let created = created
            .filter(|created| created.is_valid(at))
            .map_or(i64::MIN, |created| created.value(at));
        (slot != NO_KEY).then(|| Candidate {
            slot,
            row,
            time: times.value(at),
            created,
        })
    };
    (0..).zip(numbers).filter_map(offer).collect()
}
