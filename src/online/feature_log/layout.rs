//! [`Layout`]: the columns of a service's log, in Feast's order and under Feast's names
//! (`feast/feature_logging.py`), and answers turned into them.

use std::sync::Arc;

use arrow::{
    array::{
        ArrayRef, Date32Array, Int32Array, StringArray, TimestampMicrosecondArray, TimestampMillisecondArray,
        new_null_array,
    },
    compute::cast,
    datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit},
    record_batch::RecordBatch,
};

use super::Entry;
use crate::{
    error::Result,
    model::{
        ValueType,
        feature_view::DUMMY_JOIN_KEY,
        on_demand::OnDemandInput,
        value::{self, Value},
    },
    offline::served_log::{LOG_DATE, LOG_TIMESTAMP, LogPlace, REQUEST_ID},
    online::{
        plan::{Plan, Source},
        serve::{Column, Status, Stored},
    },
    proto::feast::core::{FeatureServiceSpec, FeatureViewProjection},
    registry::{Catalog, View},
};

const MICROS: i64 = 1_000_000;
const DAY: i64 = 86_400 * MICROS;

/// How a service's answers are logged.
#[derive(Debug)]
pub struct Layout {
    pub(super) service: String,
    pub(super) place: LogPlace,
    /// The share of requests that are logged.
    pub(super) sample_rate: f32,
    columns: Vec<Logged>,
    pub(super) schema: SchemaRef,
}

/// A join key, request data, or a feature; a feature has two more columns.
#[derive(Debug)]
struct Logged {
    name: String,
    value_type: ValueType,
    /// `None` where the answer does not need it.
    source: Option<Source>,
    is_feature: bool,
}

impl Layout {
    /// The layout of a service whose plan this is, if it is logged at all.
    pub(in crate::online) fn of(
        catalog: &Catalog,
        spec: &FeatureServiceSpec,
        plan: &Plan,
        full_names: bool,
    ) -> Option<Self> {
        let logging = spec.logging_config.as_ref()?;
        if logging.sample_rate <= 0.0 {
            return None;
        }
        let place = match LogPlace::of(spec) {
            Ok(place) => place,
            Err(error) => {
                tracing::warn!(%error, "served features are not logged");
                return None;
            }
        };
        let mut columns: Vec<Logged> = Vec::new();
        for projection in &spec.features {
            for column in given(catalog, plan, projection) {
                // A key that several views share stands where the first has it.
                if !columns.iter().any(|known| known.name == column.name) {
                    columns.push(column);
                }
            }
            columns.extend(features(plan, projection, full_names));
        }
        let schema = Arc::new(Schema::new(fields(&columns)));
        Some(Self {
            service: spec.name.clone(),
            place,
            sample_rate: logging.sample_rate,
            columns,
            schema,
        })
    }

    /// Answers as rows of the log.
    ///
    /// # Errors
    /// `InvalidArgument` when a stored value is not of its feature's type.
    pub(super) fn rows(&self, entries: &[Entry]) -> Result<RecordBatch> {
        let count = entries.iter().map(|entry| entry.response.rows()).sum();
        let mut arrays: Vec<ArrayRef> = Vec::with_capacity(self.schema.fields().len());
        for column in &self.columns {
            let wanted = logged_type(column.value_type);
            let parts: Vec<Column<'_>> = match column.source {
                Some(source) => entries
                    .iter()
                    .map(|entry| entry.response.column(source))
                    .collect(),
                None => Vec::new(),
            };
            let values = if column.source.is_some() {
                fitted(&values(&parts, column.value_type)?, &wanted)?
            } else {
                new_null_array(&wanted, count)
            };
            arrays.push(values);
            if column.is_feature {
                arrays.push(times(&parts));
                arrays.push(statuses(&parts));
            }
        }
        let each = |entry: &Entry| std::iter::repeat_n(entry.response.answered_at(), entry.response.rows());
        let answered: Vec<i64> = entries.iter().flat_map(each).collect();
        let days = answered
            .iter()
            .map(|micros| i32::try_from(micros.div_euclid(DAY)).unwrap_or_default());
        let days = Date32Array::from_iter_values(days);
        let ids = entries
            .iter()
            .flat_map(|entry| std::iter::repeat_n(entry.id.as_str(), entry.response.rows()));
        arrays.push(Arc::new(
            TimestampMicrosecondArray::from(answered).with_timezone("UTC"),
        ));
        arrays.push(Arc::new(days));
        arrays.push(Arc::new(StringArray::from(ids.collect::<Vec<_>>())));
        Ok(RecordBatch::try_new(Arc::clone(&self.schema), arrays)?)
    }
}

/// What callers send for a view: its join keys, or the request data of an on-demand view.
fn given(catalog: &Catalog, plan: &Plan, projection: &FeatureViewProjection) -> Vec<Logged> {
    let column = |name: &str, value_type, source| Logged {
        name: name.to_owned(),
        value_type,
        source,
        is_feature: false,
    };
    match catalog.view(&projection.feature_view_name) {
        Some(View::OnDemand(view)) => {
            let requests = view.inputs.iter().filter_map(|input| match input {
                OnDemandInput::Request { fields, .. } => Some(fields),
                OnDemandInput::View { .. } => None,
            });
            let field = |field: &crate::model::Field| {
                let known = plan.request_columns.iter();
                let place = known.into_iter().position(|known| known.name == field.name);
                column(&field.name, field.value_type, place.map(Source::Request))
            };
            requests.flatten().map(field).collect()
        }
        Some(View::Stored(view)) => {
            let key = |field: &crate::model::Field| {
                let name = projection.join_key_map.get(&field.name).unwrap_or(&field.name);
                let named = |exact: bool| {
                    let fits = |known: &crate::online::plan::KeyColumn| {
                        known.name == *name && (!exact || known.value_type == field.value_type)
                    };
                    plan.key_columns.iter().position(fits)
                };
                let place = named(true).or_else(|| named(false));
                column(name, field.value_type, place.map(Source::Key))
            };
            let keys = view.join_keys.iter().filter(|key| key.name != DUMMY_JOIN_KEY);
            keys.map(key).collect()
        }
        None => Vec::new(),
    }
}

fn features(plan: &Plan, projection: &FeatureViewProjection, full_names: bool) -> Vec<Logged> {
    let view = match projection.feature_view_name_alias.as_str() {
        "" => &projection.feature_view_name,
        alias => alias,
    };
    let view = match projection.version_tag {
        Some(version) => format!("{view}@v{version}"),
        None => view.to_owned(),
    };
    let feature = |feature: &crate::proto::feast::core::FeatureSpecV2| {
        let full = format!("{view}__{}", feature.name);
        let answered = if full_names { &full } else { &feature.name };
        let output = plan.outputs.iter().find(|output| output.name == *answered);
        Logged {
            source: output.map(|output| output.source),
            name: full,
            value_type: ValueType::from_number(feature.value_type),
            is_feature: true,
        }
    };
    projection.feature_columns.iter().map(feature).collect()
}

fn fields(columns: &[Logged]) -> Vec<Field> {
    let utc = |unit| DataType::Timestamp(unit, Some("UTC".into()));
    let mut fields = Vec::new();
    for Logged {
        name,
        value_type,
        is_feature,
        ..
    } in columns
    {
        fields.push(Field::new(name, logged_type(*value_type), true));
        if *is_feature {
            let seconds = utc(TimeUnit::Millisecond);
            fields.push(Field::new(format!("{name}__timestamp"), seconds, true));
            fields.push(Field::new(format!("{name}__status"), DataType::Int32, true));
        }
    }
    fields.push(Field::new(LOG_TIMESTAMP, utc(TimeUnit::Microsecond), true));
    fields.push(Field::new(LOG_DATE, DataType::Date32, true));
    fields.push(Field::new(REQUEST_ID, DataType::Utf8, true));
    fields
}

/// The type of a column, Feast's `FEAST_TYPE_TO_ARROW_TYPE` as it comes back from a Parquet file, which has
/// no whole seconds. For types that Feast cannot log it is that of a training set.
fn logged_type(value_type: ValueType) -> DataType {
    fn naive(data_type: DataType) -> DataType {
        match data_type {
            DataType::Timestamp(..) => DataType::Timestamp(TimeUnit::Millisecond, None),
            DataType::List(item) => {
                let inner = naive(item.data_type().clone());
                DataType::List(Arc::new(Field::new(item.name(), inner, item.is_nullable())))
            }
            DataType::Null => DataType::Utf8,
            other => other,
        }
    }
    naive(value::arrow::arrow_type(value_type))
}

fn fitted(array: &ArrayRef, wanted: &DataType) -> Result<ArrayRef> {
    if array.data_type() == wanted {
        return Ok(Arc::clone(array));
    }
    Ok(cast(array, wanted)?)
}

/// One column of several answers.
fn values(parts: &[Column<'_>], value_type: ValueType) -> Result<ArrayRef> {
    // What a column is of is decided by its source, which is the same in all of them.
    if let Some(Column::Stored(_)) = parts.first() {
        let cells: Vec<Option<&[u8]>> = stored(parts)
            .flat_map(|part| part.cells().map(|(cell, _)| cell))
            .collect();
        return value::arrow::decode_array(&cells, value_type);
    }
    let plain = parts.iter().flat_map(|part| match part {
        Column::Plain(values) => *values,
        Column::Stored(_) => &[],
    });
    value::arrow::to_array(plain.collect::<Vec<&Value>>(), value_type)
}

fn stored<'a>(parts: &'a [Column<'a>]) -> impl Iterator<Item = Stored<'a>> {
    parts.iter().filter_map(|part| match part {
        Column::Stored(stored) => Some(*stored),
        Column::Plain(_) => None,
    })
}

/// Event times in whole seconds, as Feast logs them; null where there is none.
fn times(parts: &[Column<'_>]) -> ArrayRef {
    let milliseconds = |micros: i64| micros.div_euclid(MICROS) * 1000;
    let times: TimestampMillisecondArray = parts
        .iter()
        .flat_map(|part| match part {
            Column::Plain(values) => vec![None; values.len()],
            Column::Stored(stored) => stored.event_times().map(|time| time.map(milliseconds)).collect(),
        })
        .collect();
    Arc::new(times.with_timezone("UTC"))
}

fn statuses(parts: &[Column<'_>]) -> ArrayRef {
    let number = |status: Status| i32::from(status as u8);
    let statuses = parts.iter().flat_map(|part| match part {
        Column::Plain(values) => vec![number(Status::Present); values.len()],
        Column::Stored(stored) => stored.cells().map(|(_, status)| number(status)).collect(),
    });
    Arc::new(Int32Array::from_iter_values(statuses))
}
