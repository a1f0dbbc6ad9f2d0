//! Historical features of another server, put back beside the entity rows they were asked for.
//!
//! What is sent is each pair of keys and time once, with its number, under the names that the view itself has
//! for its keys: so the server needs to know no aliases, and it does not matter that Feast's stores sort
//! rows, drop those without values and fold equal ones. Answers that come in order pass as they come; others
//! are gathered first.

use std::{
    collections::{BTreeSet, HashMap},
    ops::Range,
    sync::Arc,
};

use arrow::{
    array::{
        Array, ArrayRef, AsArray as _, Int64Array, RecordBatch, TimestampMicrosecondArray, UInt32Array,
        new_null_array,
    },
    compute::{cast, concat_batches, interleave, take, take_record_batch},
    datatypes::{DataType, Field, FieldRef, Int64Type, Schema, SchemaRef},
    row::{RowConverter, SortField},
};
use datafusion::execution::SendableRecordBatchStream;
use futures::{StreamExt, TryStreamExt, stream};
use serde_json::Value as Json;

use super::Server;

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

    /// Each view by itself, with the places of its features among those of all.
    pub(super) fn one_by_one(&self) -> Vec<(Self, Range<usize>)> {
        let mut first = 0;
        let alone = |view: &JoinView| {
            let features = first..first + view.features.len();
            first = features.end;
            let group = Self {
                views: vec![view.clone()],
                keys: self.keys.clone(),
            };
            (group, features)
        };
        self.views.iter().map(alone).collect()
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
    again: Vec<Again>,
}

/// How one view of several is asked for what the answer to all of them left out. Feast's dask store leaves
/// out rows for which one of the views has only values that are too old.
pub(super) struct Again {
    pub(super) server: Server,
    pub(super) question: Json,
    /// Places of its features among all.
    pub(super) features: Range<usize>,
}

impl Answer {
    /// Without rows nothing was asked.
    pub(super) fn new(
        group: &Group,
        asked: Asked,
        rows: Option<SendableRecordBatchStream>,
        limit: usize,
        again: Vec<Again>,
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
            again,
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
        let places = self.asked.places[self.given..].to_vec();
        self.given += places.len();
        let Some(schema) = kept.first().map(RecordBatch::schema) else {
            let nothing = self.nulls(places.len());
            return self.with_left_out(nothing, &places, &HashMap::new()).await;
        };
        let answer = concat_batches(&schema, &kept)?;
        let known = rows_by_number(&answer)?;
        let wanted: UInt32Array = places
            .iter()
            .map(|place| known.get(&(*place)?).copied())
            .collect();
        let columns = self.columns(&answer)?.into_iter();
        let columns = columns.map(|column| take(&column, &wanted, None));
        let columns = columns.collect::<Result<Vec<_>, _>>()?;
        self.with_left_out(columns, &places, &known).await
    }

    /// Fills in what the answer to several views left out.
    async fn with_left_out(
        &mut self,
        mut columns: Vec<ArrayRef>,
        places: &[Option<u32>],
        known: &HashMap<u32, u32>,
    ) -> Result<Vec<ArrayRef>> {
        let left_out = places.iter().flatten().filter(|place| !known.contains_key(place));
        let left_out: BTreeSet<u32> = left_out.copied().collect();
        if left_out.is_empty() || self.again.len() < 2 {
            return Ok(columns);
        }
        let left_out: UInt32Array = left_out.into_iter().collect();
        let upload = take_record_batch(&self.asked.upload, &left_out)?;
        for view in &self.again {
            let api = "get_historical_features";
            let rows = view
                .server
                .read(api, view.question.clone(), Some(upload.clone()))
                .await?;
            let schema = rows.schema();
            let batches: Vec<RecordBatch> = rows.try_collect().await?;
            let more = concat_batches(&schema, &batches)?;
            let found = rows_by_number(&more)?;
            let from: Vec<(usize, usize)> = places
                .iter()
                .enumerate()
                .map(|(row, place)| match place.and_then(|place| found.get(&place)) {
                    Some(row) => (1, *row as usize),
                    None => (0, row),
                })
                .collect();
            for feature in view.features.clone() {
                let column = self.column(&more, feature)?;
                columns[feature] = interleave(&[columns[feature].as_ref(), column.as_ref()], &from)?;
            }
        }
        Ok(columns)
    }

    fn columns(&self, batch: &RecordBatch) -> Result<Vec<ArrayRef>> {
        (0..self.names.len())
            .map(|feature| self.column(batch, feature))
            .collect()
    }

    fn column(&self, batch: &RecordBatch, feature: usize) -> Result<ArrayRef> {
        let place = batch
            .schema_ref()
            .index_of(found(batch.schema_ref(), &self.names[feature])?.name())?;
        Ok(cast(batch.column(place), self.fields[feature].data_type())?)
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

/// Where each row that was sent is in an answer.
fn rows_by_number(answer: &RecordBatch) -> Result<HashMap<u32, u32>> {
    let numbers = numbers(answer)?;
    let pairs = numbers.iter().zip(0_u32..);
    Ok(pairs
        .filter_map(|(number, row)| Some((u32::try_from(number?).ok()?, row)))
        .collect())
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
