//! Historical features of another server, put back beside the entity rows they were asked for.
//!
//! What is sent is each pair of keys and time once, with its number, under the names that the view itself has
//! for its keys: so the server needs to know no aliases, and it does not matter that Feast's stores sort
//! rows, drop those without values and fold equal ones. Answers that come in order pass as they come; others
//! are gathered first.

use std::{collections::HashMap, sync::Arc};

use arrow::array::AsArray as _;
use arrow::{
    array::{
        Array, ArrayRef, Int64Array, RecordBatch, TimestampMicrosecondArray, UInt32Array, new_null_array,
    },
    compute::{cast, concat_batches, take},
    datatypes::{DataType, Field, FieldRef, Int64Type, Schema, SchemaRef},
    row::{RowConverter, SortField},
};
use datafusion::execution::SendableRecordBatchStream;
use futures::{StreamExt, stream};

use crate::{
    error::{Error, Kind, Result},
    model::value::arrow::arrow_type,
    offline::{
        asof::times::{Scale, moments},
        store::{JoinFeature, JoinView, bytes_of},
    },
};

/// The column that numbers the rows that are sent.
const NUMBER: &str = "thali_row";
/// Rows of a result batch.
const OUTPUT_ROWS: usize = 1 << 14;

/// Views whose keys are called alike, which can be asked for together.
pub(super) struct Group {
    pub(super) views: Vec<JoinView>,
    /// Of each key of the views its name in the entity rows.
    keys: Vec<(String, String)>,
}

impl Group {
    /// Views in as few groups as their keys allow.
    pub(super) fn of(views: Vec<JoinView>) -> Vec<Self> {
        let mut groups: Vec<Self> = Vec::new();
        for view in views {
            let keys: Vec<(String, String)> = view
                .join_keys
                .iter()
                .map(|key| (key.source_column.clone(), key.entity_column.clone()))
                .collect();
            let fits = |group: &&mut Self| {
                let same = |key: &(String, String)| {
                    let other = group.keys.iter().find(|other| other.0 == key.0);
                    other.is_none_or(|other| other.1 == key.1)
                };
                // One view twice would have one name for two things.
                keys.iter().all(same) && group.views.iter().all(|other| other.name != view.name)
            };
            match groups.iter_mut().find(fits) {
                Some(group) => {
                    for key in keys {
                        if !group.keys.contains(&key) {
                            group.keys.push(key);
                        }
                    }
                    group.views.push(view);
                }
                None => groups.push(Self {
                    views: vec![view],
                    keys,
                }),
            }
        }
        groups
    }

    /// Whether the keys have the names of the views' own.
    pub(super) fn is_plain(&self) -> bool {
        self.keys.iter().all(|(own, entity)| own == entity)
    }

    /// The names of the keys in the answer to a question without entity rows.
    pub(super) fn keys(&self) -> impl Iterator<Item = &(String, String)> {
        self.keys.iter()
    }

    /// The features with their names in the answer.
    pub(super) fn features(&self) -> impl Iterator<Item = (String, &JoinFeature)> {
        self.views.iter().flat_map(|view| {
            let name = |feature: &JoinFeature| format!("{}__{}", view.name, feature.source_column);
            view.features.iter().map(move |feature| (name(feature), feature))
        })
    }
}

/// The rows to send, and which of them each entity row is.
pub(super) struct Asked {
    pub(super) upload: RecordBatch,
    /// None for rows without a key or a time, which have no values.
    places: Vec<Option<u32>>,
    /// Whether entity rows and rows sent are one and the same.
    is_one_to_one: bool,
}

impl Asked {
    pub(super) fn new(
        group: &Group,
        schema: &SchemaRef,
        batches: &[RecordBatch],
        time: &str,
    ) -> Result<Self> {
        let rows = concat_batches(schema, batches)?;
        let column = |name: &str| {
            rows.column_by_name(name).ok_or_else(|| {
                Error::new(
                    Kind::EntityColumnsMissing,
                    format!("the entity rows lack `{name}`"),
                )
            })
        };
        let times = moments(column(time)?, Scale::Micros, time)?;
        let times: TimestampMicrosecondArray = times.reinterpret_cast();
        let mut fields = Vec::new();
        let mut columns: Vec<ArrayRef> = Vec::new();
        for (own, entity) in &group.keys {
            let column = column(entity)?;
            fields.push(Field::new(own, column.data_type().clone(), true));
            columns.push(Arc::clone(column));
        }
        let times = times.with_timezone("UTC");
        fields.push(Field::new("event_timestamp", times.data_type().clone(), true));
        columns.push(Arc::new(times));
        let sorts = columns
            .iter()
            .map(|column| SortField::new(column.data_type().clone()));
        let encoded = RowConverter::new(sorts.collect())?.convert_columns(&columns)?;
        let mut known = HashMap::new();
        let (mut chosen, mut places) = (Vec::new(), Vec::with_capacity(rows.num_rows()));
        for (row, bytes) in (0_u32..).zip(&encoded) {
            let at = row as usize;
            if columns.iter().any(|column| column.is_null(at)) {
                places.push(None);
                continue;
            }
            let place = *known.entry(bytes).or_insert_with(|| {
                chosen.push(row);
                u32::try_from(chosen.len() - 1).unwrap_or(u32::MAX)
            });
            places.push(Some(place));
        }
        let is_one_to_one = chosen.len() == rows.num_rows();
        let chosen = UInt32Array::from(chosen);
        let mut sent = columns
            .iter()
            .map(|column| take(column, &chosen, None))
            .collect::<Result<Vec<_>, _>>()?;
        fields.push(Field::new(NUMBER, DataType::Int64, false));
        sent.push(Arc::new(Int64Array::from_iter_values(
            0..i64::try_from(chosen.len()).unwrap_or_default(),
        )));
        Ok(Self {
            upload: RecordBatch::try_new(Arc::new(Schema::new(fields)), sent)?,
            places,
            is_one_to_one,
        })
    }
}

/// The features of a group, row by row of the entity rows.
pub(super) struct Answer {
    rows: Option<SendableRecordBatchStream>,
    asked: Asked,
    /// Names in the answer; the fields as they leave.
    names: Vec<String>,
    pub(super) fields: Vec<FieldRef>,
    /// Entity rows whose features were given.
    given: usize,
    limit: usize,
}

impl Answer {
    /// Without rows nothing was asked.
    pub(super) fn new(
        group: &Group,
        asked: Asked,
        rows: Option<SendableRecordBatchStream>,
        limit: usize,
    ) -> Result<Self> {
        let schema = rows.as_ref().map(|rows| rows.schema());
        let (mut names, mut fields) = (Vec::new(), Vec::new());
        for (name, feature) in group.features() {
            let data_type = match &schema {
                Some(schema) => found(schema, &name)?.data_type().clone(),
                None => arrow_type(feature.value_type),
            };
            fields.push(Arc::new(Field::new(&feature.output, data_type, true)));
            names.push(name);
        }
        if let Some(schema) = &schema {
            found(schema, NUMBER)?;
        }
        Ok(Self {
            rows,
            asked,
            names,
            fields,
            given: 0,
            limit,
        })
    }

    /// Columns of the next entity rows; none when all have been given.
    async fn next(&mut self) -> Result<Option<Vec<ArrayRef>>> {
        let total = self.asked.places.len();
        if self.given >= total {
            return Ok(None);
        }
        let Some(rows) = &mut self.rows else {
            self.given = total;
            return Ok(Some(self.nulls(total)));
        };
        let mut kept = Vec::new();
        if let Some(batch) = rows.next().await.transpose()? {
            let numbers = numbers(&batch)?;
            let expected = i64::try_from(self.given).unwrap_or(i64::MAX);
            let in_order = numbers.null_count() == 0
                && (expected..)
                    .zip(numbers.values())
                    .all(|(wanted, number)| wanted == *number);
            if self.asked.is_one_to_one && in_order {
                self.given += batch.num_rows();
                return self.columns(&batch).map(Some);
            }
            kept.push(batch);
        }
        self.rest(kept).await.map(Some)
    }

    /// The features of all entity rows that are left, in their order.
    async fn rest(&mut self, mut kept: Vec<RecordBatch>) -> Result<Vec<ArrayRef>> {
        let mut held: usize = kept.iter().map(bytes_of).sum();
        if let Some(rows) = &mut self.rows {
            while let Some(batch) = rows.next().await.transpose()? {
                held += bytes_of(&batch);
                if held > self.limit {
                    return Err(Error::new(
                        Kind::Overloaded,
                        "the answer of the offline server is not in order, and larger than the memory limit",
                    )
                    .hint("ask for fewer rows, or raise `memory_limit` in the `thali` section"));
                }
                kept.push(batch);
            }
        }
        let places = &self.asked.places[self.given..];
        let Some(schema) = kept.first().map(RecordBatch::schema) else {
            let left = places.len();
            self.given += left;
            return Ok(self.nulls(left));
        };
        let answer = concat_batches(&schema, &kept)?;
        let numbers = numbers(&answer)?;
        let rows: HashMap<i64, u32> = numbers
            .iter()
            .zip(0..)
            .filter_map(|(number, row)| Some((number?, row)))
            .collect();
        let wanted: UInt32Array = places
            .iter()
            .map(|place| rows.get(&i64::from((*place)?)).copied())
            .collect();
        self.given += places.len();
        let columns = self.columns(&answer)?;
        Ok(columns
            .iter()
            .map(|column| take(column, &wanted, None))
            .collect::<Result<Vec<_>, _>>()?)
    }

    fn columns(&self, batch: &RecordBatch) -> Result<Vec<ArrayRef>> {
        let column = |(name, field): (&String, &FieldRef)| {
            let column = batch.column_by_name(name).ok_or_else(|| {
                Error::unavailable(format!("the answer of the offline server lacks `{name}`"))
            })?;
            Ok(cast(column, field.data_type())?)
        };
        self.names.iter().zip(&self.fields).map(column).collect()
    }

    fn nulls(&self, rows: usize) -> Vec<ArrayRef> {
        let fields = self.fields.iter();
        fields
            .map(|field| new_null_array(field.data_type(), rows))
            .collect()
    }
}

/// The field of that name in an answer.
pub(super) fn found<'a>(schema: &'a Schema, name: &str) -> Result<&'a Field> {
    schema.field_with_name(name).map_err(|_| {
        Error::unavailable(format!("the answer of the offline server lacks `{name}`"))
            .hint("apply the same definitions on both sides")
    })
}

fn numbers(batch: &RecordBatch) -> Result<Int64Array> {
    let column = batch
        .column_by_name(NUMBER)
        .ok_or_else(|| Error::unavailable("the answer of the offline server has no numbers of rows"))?;
    Ok(cast(column, &DataType::Int64)?
        .as_primitive::<Int64Type>()
        .clone())
}

/// Entity rows beside the features of all groups.
pub(super) struct Beside {
    pub(super) entities: RecordBatch,
    pub(super) answers: Vec<Answer>,
    /// Of each answer what was given and is not used yet.
    pub(super) waiting: Vec<Vec<ArrayRef>>,
    /// Of each column of features its answer and its place there.
    pub(super) order: Vec<(usize, usize)>,
    pub(super) schema: SchemaRef,
    pub(super) done: usize,
}

impl Beside {
    /// The rows, as far as all answers have come.
    pub(super) fn rows(self) -> impl futures::Stream<Item = datafusion::error::Result<RecordBatch>> + Send {
        stream::try_unfold(self, |mut all| async move {
            let batch = all.next().await?;
            Ok(batch.map(|batch| (batch, all)))
        })
    }

    async fn next(&mut self) -> Result<Option<RecordBatch>> {
        let mut rows = OUTPUT_ROWS.min(self.entities.num_rows() - self.done);
        if rows == 0 {
            return Ok(None);
        }
        for (answer, waiting) in self.answers.iter_mut().zip(&mut self.waiting) {
            while waiting.first().is_none_or(|column| column.is_empty()) {
                let more = answer.next().await?;
                *waiting =
                    more.ok_or_else(|| Error::unavailable("the answer of the offline server ended early"))?;
            }
            rows = rows.min(waiting.first().map_or(0, |column| column.len()));
        }
        let entities = self.entities.slice(self.done, rows);
        let features = self
            .order
            .iter()
            .map(|(answer, place)| self.waiting[*answer][*place].slice(0, rows));
        let columns = entities.columns().iter().cloned().chain(features).collect();
        for waiting in &mut self.waiting {
            for column in waiting {
                *column = column.slice(rows, column.len() - rows);
            }
        }
        self.done += rows;
        Ok(Some(RecordBatch::try_new(Arc::clone(&self.schema), columns)?))
    }
}
