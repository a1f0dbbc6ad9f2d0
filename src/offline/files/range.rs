//! Entity rows for queries that bring none: every key and time the views have in a range.

use std::sync::Arc;

use arrow::{
    array::{Array, ArrayRef, BooleanArray, Int64Array, UInt32Array, new_null_array},
    compute::{SortColumn, cast, concat, filter, lexsort_to_indices, take},
    datatypes::{DataType, Field, Schema, SchemaRef},
    record_batch::RecordBatch,
};
use chrono::{DateTime, Utc};
use datafusion::execution::memory_pool::MemoryConsumer;
use futures::StreamExt;

use super::{
    FileStore,
    table::{Filter, Table},
};
use crate::{
    error::{Error, Result},
    offline::{
        asof::{
            Side,
            entities::Entities,
            keys::{KeyColumn, KeyTable, comparable},
            out_of_memory,
            times::{Scale, moments},
        },
        store::JoinKey,
    },
};

/// The name of the time column of such rows.
const EVENT_TIMESTAMP: &str = "event_timestamp";

impl FileStore {
    /// The distinct (keys, time) of all views in the range, both ends inclusive, sorted by time and keys.
    ///
    /// The rows have the key columns of all views; a view gives null to those it has not. Views without
    /// entities add times only when no other view is there, since they have a value for every row anyway.
    pub(super) async fn range(
        &self,
        tables: &[Table],
        sides: &[Side],
        start: DateTime<Utc>,
        end: DateTime<Utc>,
    ) -> Result<Entities> {
        if start > end {
            return Err(Error::invalid(format!(
                "the start {start} is later than the end {end}"
            )));
        }
        let times = sides
            .iter()
            .filter_map(|side| side.schema.field_with_name(&side.timestamp).ok());
        let scale = Scale::finest(times.map(Field::data_type));
        let schema = schema(sides, scale)?;
        let only_times = sides
            .iter()
            .flat_map(|side| &side.views)
            .all(|(_, view)| view.join_keys.is_empty());
        let held = MemoryConsumer::new("entity rows of a range").register(&self.pool);
        let mut rows: Vec<Vec<ArrayRef>> = Vec::new();
        for (table, side) in tables.iter().zip(sides) {
            let mut seen: Vec<Vec<(&str, &str)>> = Vec::new();
            for (_, view) in &side.views {
                let keys: Vec<_> = view.join_keys.iter().map(names).collect();
                if (keys.is_empty() && !only_times) || seen.contains(&keys) {
                    continue;
                }
                let mut columns = vec![side.timestamp.clone()];
                columns.extend(view.join_keys.iter().map(|key| key.source_column.clone()));
                let (start, end) = (scale.moment(start), scale.moment(end));
                let hint = Filter::moments(&side.timestamp, Some(start), Some(end), scale);
                for mut partition in table.scan(&self.state, &columns, &[hint]).await? {
                    while let Some(batch) = partition.next().await {
                        let found = in_range(&batch?, &keys, &schema, scale, start, end)?;
                        let bytes: usize = found.iter().map(|column| column.get_buffer_memory_size()).sum();
                        held.try_grow(bytes).map_err(|error| out_of_memory(&error))?;
                        rows.push(found);
                    }
                }
                seen.push(keys);
            }
        }
        let distinct = tokio::task::spawn_blocking({
            let schema = Arc::clone(&schema);
            move || distinct(&schema, &rows)
        });
        let batch = distinct
            .await
            .map_err(|error| Error::internal(format!("finding rows ended early: {error}")))??;
        Entities::new(schema, vec![batch], EVENT_TIMESTAMP)
    }
}

fn names(key: &JoinKey) -> (&str, &str) {
    (&key.entity_column, &key.source_column)
}

/// `event_timestamp`, then every key column once, in the type of the first source that has it.
fn schema(sides: &[Side], scale: Scale) -> Result<SchemaRef> {
    let in_utc = DataType::Timestamp(scale.unit(), Some("UTC".into()));
    let mut fields = vec![Field::new(EVENT_TIMESTAMP, in_utc, true)];
    let mut views: Vec<_> = sides
        .iter()
        .flat_map(|side| side.views.iter().map(move |view| (side, view)))
        .collect();
    views.sort_by_key(|(_, (place, _))| *place);
    for (side, (_, view)) in views {
        for key in &view.join_keys {
            if !fields.iter().any(|field| field.name() == &key.entity_column) {
                let stored = side.schema.field_with_name(&key.source_column)?;
                fields.push(Field::new(&key.entity_column, stored.data_type().clone(), true));
            }
        }
    }
    Ok(Arc::new(Schema::new(fields)))
}

/// The rows of a batch of time and keys whose time is in the range, in the columns of `schema`.
fn in_range(
    batch: &RecordBatch,
    keys: &[(&str, &str)],
    schema: &Schema,
    scale: Scale,
    start: i64,
    end: i64,
) -> Result<Vec<ArrayRef>> {
    let times = moments(batch.column(0), scale, batch.schema_ref().field(0).name())?;
    let inside: BooleanArray = times
        .iter()
        .map(|time| Some(time.is_some_and(|time| start <= time && time <= end)))
        .collect();
    let times = filter(&times, &inside)?;
    let mut columns = vec![cast(&times, schema.field(0).data_type())?];
    for field in &schema.fields()[1..] {
        columns.push(
            match keys
                .iter()
                .position(|(entity_column, _)| entity_column == field.name())
            {
                // Scans deliver the time first, then the keys in this order.
                Some(key) => cast(&filter(batch.column(key + 1), &inside)?, field.data_type())?,
                None => new_null_array(field.data_type(), times.len()),
            },
        );
    }
    Ok(columns)
}

/// Sorts the rows and keeps one of each.
fn distinct(schema: &SchemaRef, rows: &[Vec<ArrayRef>]) -> Result<RecordBatch> {
    let mut columns = Vec::with_capacity(schema.fields().len());
    for (place, field) in schema.fields().iter().enumerate() {
        let parts: Vec<&dyn Array> = rows.iter().map(|columns| columns[place].as_ref()).collect();
        columns.push(if parts.is_empty() {
            new_null_array(field.data_type(), 0)
        } else {
            concat(&parts)?
        });
    }
    let sort: Vec<_> = columns
        .iter()
        .map(|column| SortColumn {
            values: Arc::clone(column),
            options: None,
        })
        .collect();
    let sorted = lexsort_to_indices(&sort, None)?;
    let columns = columns
        .iter()
        .map(|column| take(column, &sorted, None))
        .collect::<Result<Vec<_>, _>>()?;
    // Nulls are part of these keys: a row of one view has none of another's.
    let mut parts = Vec::new();
    for (column, field) in columns.iter().zip(schema.fields()) {
        let name = field.name();
        let is_null: Int64Array = (0..column.len())
            .map(|row| Some(i64::from(column.is_null(row))))
            .collect();
        parts.push(KeyColumn::Whole(is_null));
        parts.push(KeyColumn::new(column, comparable(field.data_type()), name)?.without_nulls());
    }
    let (mut numbering, mut numbers) = (KeyTable::new(&parts), Vec::new());
    numbering.insert(&parts, columns[0].len(), &mut numbers);
    let mut next = 0;
    let first: UInt32Array = (0_u32..)
        .zip(&numbers)
        .filter_map(|(row, &number)| {
            let is_first = number == next;
            next += u32::from(is_first);
            is_first.then_some(row)
        })
        .collect();
    let columns = columns
        .iter()
        .map(|column| take(column, &first, None))
        .collect::<Result<Vec<_>, _>>()?;
    Ok(RecordBatch::try_new(Arc::clone(schema), columns)?)
}
