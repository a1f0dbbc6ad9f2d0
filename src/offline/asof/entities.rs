//! [`Entities`]: the rows a query was asked for, as they came, with their times read.

use std::{collections::HashMap, ops::Range, sync::Arc};

use arrow::{
    array::{ArrayRef, Int64Array},
    compute::cast,
    datatypes::{DataType, Field, FieldRef, SchemaRef, TimeUnit, TimestampMicrosecondType},
    record_batch::RecordBatch,
};

use super::{
    keys::KeyColumn,
    timeline::Timeline,
    times::{Scale, is_readable, moments},
};
use crate::{
    error::{Error, Kind, Result},
    model::ValueType,
    offline::store::{bytes_of, listed},
};

/// Entity rows. They leave the join as they came, but for the time column, which is given in UTC.
pub struct Entities {
    schema: SchemaRef,
    batches: Vec<RecordBatch>,
    timestamp: usize,
    fields: Vec<FieldRef>,
}

/// A run of entity rows that become one result batch.
#[derive(Debug, Clone, Copy)]
pub struct Part {
    batch: usize,
    offset: usize,
    /// Counted over all batches.
    pub first_row: usize,
    pub rows: usize,
}

impl Entities {
    /// Takes rows whose moments are in `timestamp_column`.
    ///
    /// # Errors
    /// `EntityColumnsMissing` when there is no such column, `InvalidArgument` when it holds no times.
    pub fn new(schema: SchemaRef, batches: Vec<RecordBatch>, timestamp_column: &str) -> Result<Self> {
        let timestamp = schema
            .index_of(timestamp_column)
            .map_err(|_| missing(&schema, timestamp_column))?;
        let field = schema.field(timestamp);
        if !is_readable(field.data_type()) && field.data_type() != &DataType::Null {
            return Err(Error::invalid(format!(
                "entity column `{timestamp_column}` of type {} holds no times",
                field.data_type()
            )));
        }
        let unit = match field.data_type() {
            DataType::Timestamp(unit, _) => *unit,
            _ => TimeUnit::Microsecond,
        };
        let mut fields: Vec<FieldRef> = schema.fields().iter().cloned().collect();
        let in_utc = Field::new(
            timestamp_column,
            DataType::Timestamp(unit, Some("UTC".into())),
            true,
        );
        fields[timestamp] = Arc::new(in_utc);
        Ok(Self {
            schema,
            batches,
            timestamp,
            fields,
        })
    }

    /// The type of the time column.
    pub fn timestamp_type(&self) -> &DataType {
        self.schema.field(self.timestamp).data_type()
    }

    /// The fields of the result's entity columns.
    pub fn fields(&self) -> impl Iterator<Item = &FieldRef> {
        self.fields.iter()
    }

    /// The metadata the rows came with.
    pub fn metadata(&self) -> &HashMap<String, String> {
        self.schema.metadata()
    }

    /// Bytes they hold.
    pub fn memory(&self) -> usize {
        self.batches.iter().map(bytes_of).sum()
    }

    /// How many there are.
    pub fn rows(&self) -> usize {
        self.batches.iter().map(RecordBatch::num_rows).sum()
    }

    /// Some of the rows, without copying them.
    #[must_use]
    pub fn slice(&self, rows: Range<usize>) -> Self {
        let mut batches = Vec::new();
        let mut first = 0;
        for batch in &self.batches {
            let (start, end) = (rows.start.max(first), rows.end.min(first + batch.num_rows()));
            if start < end {
                batches.push(batch.slice(start - first, end - start));
            }
            first += batch.num_rows();
        }
        Self {
            schema: Arc::clone(&self.schema),
            batches,
            timestamp: self.timestamp,
            fields: self.fields.clone(),
        }
    }

    /// Sorts the rows by these key columns and time.
    ///
    /// # Errors
    /// `EntityColumnsMissing` for a key that is no column, `InvalidArgument` for values of another type.
    pub fn timeline(&self, keys: &[(String, ValueType)], scale: Scale) -> Result<Timeline> {
        let mut columns = Vec::with_capacity(keys.len());
        for (name, value_type) in keys {
            columns.push((
                self.schema
                    .index_of(name)
                    .map_err(|_| missing(&self.schema, name))?,
                name,
                *value_type,
            ));
        }
        let read = |batch: &RecordBatch| {
            let key = |&(column, name, value_type): &(usize, &String, ValueType)| {
                KeyColumn::strict(batch.column(column), value_type, name)
            };
            Ok((
                columns.iter().map(key).collect::<Result<Vec<_>>>()?,
                self.moments(batch, scale)?,
            ))
        };
        Timeline::new(&self.batches.iter().map(read).collect::<Result<Vec<_>>>()?)
    }

    fn moments(&self, batch: &RecordBatch, scale: Scale) -> Result<Int64Array> {
        let column = batch.column(self.timestamp);
        if column.data_type() == &DataType::Null {
            return Ok(Int64Array::new_null(batch.num_rows()));
        }
        moments(column, scale, self.schema.field(self.timestamp).name())
    }

    /// The rows in runs of at most `rows`.
    pub fn parts(&self, rows: usize) -> Vec<Part> {
        let mut parts = Vec::new();
        let mut first_row = 0;
        for (batch, held) in self.batches.iter().enumerate() {
            for offset in (0..held.num_rows()).step_by(rows) {
                let rows = rows.min(held.num_rows() - offset);
                parts.push(Part {
                    batch,
                    offset,
                    first_row: first_row + offset,
                    rows,
                });
            }
            first_row += held.num_rows();
        }
        parts
    }

    /// The entity columns of a run.
    ///
    /// # Errors
    /// `InvalidArgument` when times cannot be read.
    pub fn columns(&self, part: &Part) -> Result<Vec<ArrayRef>> {
        let slice = self.batches[part.batch].slice(part.offset, part.rows);
        let mut columns = slice.columns().to_vec();
        let wanted = self.fields[self.timestamp].data_type();
        columns[self.timestamp] = match self.timestamp_type() {
            // Arrow reads a naive time as one in the target's zone, which is what is wanted.
            DataType::Timestamp(..) => cast(&columns[self.timestamp], wanted)?,
            _ => {
                let micros = self.moments(&slice, Scale::Micros)?;
                Arc::new(
                    micros
                        .reinterpret_cast::<TimestampMicrosecondType>()
                        .with_timezone("UTC"),
                ) as ArrayRef
            }
        };
        Ok(columns)
    }
}

fn missing(schema: &SchemaRef, name: &str) -> Error {
    let columns = listed(schema.fields().iter().map(|field| field.name().as_str()));
    Error::new(
        Kind::EntityColumnsMissing,
        format!("the entity rows have no column `{name}`; they have {columns}"),
    )
}
