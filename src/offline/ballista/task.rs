//! What travels to the executors: [`Question`], which all tasks of a job share, and [`Share`], the rows that
//! one of them is to answer. Both are protobuf messages of ours, read by executors of the same version.

use std::{sync::Arc, time::Duration};

use arrow::{
    datatypes::{Schema, SchemaRef},
    ipc::{
        CompressionType,
        reader::StreamReader,
        writer::{IpcWriteOptions, StreamWriter},
    },
    record_batch::RecordBatch,
};
use bytes::Bytes;
use chrono::{DateTime, Utc};

use super::window;
use crate::{
    error::{Error, Result},
    model::ValueType,
    offline::{
        asof::times::Scale,
        store::{EntityRows, HistoricalQuery, JoinFeature, JoinKey, JoinView, Pull},
    },
    proto::feast::core::DataSource,
};

/// A query but for its rows, or a window but for its times, and the columns of the answer.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Question {
    #[prost(message, repeated, tag = "1")]
    views: Vec<View>,
    #[prost(bool, tag = "2")]
    filter_by_created: bool,
    /// The schema of the answer, as an Arrow stream without rows.
    #[prost(bytes = "bytes", tag = "3")]
    answer: Bytes,
    /// Asked instead of views.
    #[prost(message, optional, tag = "4")]
    window: Option<Window>,
}

/// Which columns of which source.
#[derive(Clone, PartialEq, prost::Message)]
struct Window {
    #[prost(message, optional, tag = "1")]
    source: Option<DataSource>,
    #[prost(string, repeated, tag = "2")]
    join_keys: Vec<String>,
    #[prost(string, repeated, tag = "3")]
    features: Vec<String>,
    /// Whether times are compared in nanoseconds; else in microseconds.
    #[prost(bool, tag = "4")]
    nanos: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
struct View {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "2")]
    source: Option<DataSource>,
    #[prost(message, repeated, tag = "3")]
    join_keys: Vec<Column>,
    #[prost(message, repeated, tag = "4")]
    features: Vec<Column>,
    #[prost(message, optional, tag = "5")]
    ttl: Option<Span>,
}

/// A join key or a feature.
#[derive(Clone, PartialEq, prost::Message)]
struct Column {
    #[prost(string, tag = "1")]
    in_source: String,
    /// In the entity rows, or in the answer.
    #[prost(string, tag = "2")]
    outside: String,
    #[prost(int32, tag = "3")]
    value_type: i32,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
struct Span {
    #[prost(uint64, tag = "1")]
    seconds: u64,
    #[prost(uint32, tag = "2")]
    nanos: u32,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
struct Moment {
    #[prost(int64, tag = "1")]
    seconds: i64,
    #[prost(uint32, tag = "2")]
    nanos: u32,
}

/// A first moment and a last one.
type Times = (DateTime<Utc>, DateTime<Utc>);

/// The rows of one task.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Share {
    /// Entity rows, as an Arrow stream.
    #[prost(bytes = "bytes", tag = "1")]
    rows: Bytes,
    #[prost(string, tag = "2")]
    timestamp_column: String,
    /// Without entity rows, the range of times whose keys and times are the rows; both ends inclusive.
    #[prost(message, optional, tag = "3")]
    start: Option<Moment>,
    #[prost(message, optional, tag = "4")]
    end: Option<Moment>,
}

impl Question {
    pub(super) fn new(views: &[JoinView], filter_by_created: bool, answer: &Schema) -> Result<Self> {
        let view = |view: &JoinView| View {
            name: view.name.clone(),
            source: Some(DataSource::clone(&view.source)),
            join_keys: view
                .join_keys
                .iter()
                .map(|key| column(&key.source_column, &key.entity_column, key.value_type))
                .collect(),
            features: view
                .features
                .iter()
                .map(|feature| column(&feature.source_column, &feature.output, feature.value_type))
                .collect(),
            ttl: view.ttl.map(|ttl| Span {
                seconds: ttl.as_secs(),
                nanos: ttl.subsec_nanos(),
            }),
        };
        Ok(Self {
            views: views.iter().map(view).collect(),
            filter_by_created,
            answer: written(answer, &[])?,
            window: None,
        })
    }

    /// A window's rows, which have these columns, their times compared on the scale.
    pub(super) fn of_window(pull: &Pull, rows: &SchemaRef, scale: Scale) -> Result<Self> {
        let answer = window::marked_schema(rows, pull, scale)?;
        Ok(Self {
            answer: written(&answer, &[])?,
            window: Some(Window {
                source: Some(DataSource::clone(&pull.source)),
                join_keys: pull.join_keys.clone(),
                features: pull.features.clone(),
                nanos: scale == Scale::Nanos,
            }),
            ..Self::default()
        })
    }

    /// The columns of the answer.
    pub(super) fn answer(&self) -> Result<SchemaRef> {
        Ok(read(&self.answer)?.0)
    }

    /// The query of one task.
    pub(super) fn query(&self, share: Share) -> Result<HistoricalQuery> {
        let views = self.views.iter().map(View::join).collect::<Result<_>>()?;
        Ok(HistoricalQuery {
            entities: share.entities()?,
            views,
            filter_by_created: self.filter_by_created,
        })
    }

    /// What its jobs are called.
    pub(super) fn name(&self) -> &'static str {
        match self.window {
            Some(_) => "newest rows",
            None => "historical features",
        }
    }

    /// Of how many columns the marks of a window's keys are, if that is what is asked.
    pub(super) fn window_keys(&self) -> Option<usize> {
        let window = self.window.as_ref()?;
        Some(window::key_columns(&window.join_keys))
    }

    /// All rows of one task's part of a window and the scale of times, if that is what is asked.
    pub(super) fn pull(&self, share: &Share) -> Result<Option<(Pull, Scale)>> {
        let Some(window) = &self.window else {
            return Ok(None);
        };
        let source = window.source.clone();
        let source = source.ok_or_else(|| Error::internal("a window of a task has no source"))?;
        let times = share.times()?;
        let (start, end) = times.ok_or_else(|| Error::internal("a task of a window has no times"))?;
        let pull = Pull {
            source: Arc::new(source),
            join_keys: window.join_keys.clone(),
            features: window.features.clone(),
            start: Some(start),
            end: Some(end),
            latest_only: false,
        };
        let scale = if window.nanos { Scale::Nanos } else { Scale::Micros };
        Ok(Some((pull, scale)))
    }
}

fn column(in_source: &str, outside: &str, value_type: ValueType) -> Column {
    Column {
        in_source: in_source.to_owned(),
        outside: outside.to_owned(),
        value_type: value_type.number(),
    }
}

impl View {
    fn join(&self) -> Result<JoinView> {
        let source = self.source.clone();
        let source = source.ok_or_else(|| Error::internal("a view of a task has no source"))?;
        Ok(JoinView {
            name: self.name.clone(),
            source: Arc::new(source),
            join_keys: self
                .join_keys
                .iter()
                .map(|key| JoinKey {
                    entity_column: key.outside.clone(),
                    source_column: key.in_source.clone(),
                    value_type: ValueType::from_number(key.value_type),
                })
                .collect(),
            features: self
                .features
                .iter()
                .map(|feature| JoinFeature {
                    source_column: feature.in_source.clone(),
                    output: feature.outside.clone(),
                    value_type: ValueType::from_number(feature.value_type),
                })
                .collect(),
            ttl: self.ttl.map(|ttl| Duration::new(ttl.seconds, ttl.nanos)),
        })
    }
}

impl Share {
    pub(super) fn of_rows(schema: &Schema, batches: &[RecordBatch], timestamp_column: &str) -> Result<Self> {
        Ok(Self {
            rows: written(schema, batches)?,
            timestamp_column: timestamp_column.to_owned(),
            start: None,
            end: None,
        })
    }

    pub(super) fn of_range(start: DateTime<Utc>, end: DateTime<Utc>) -> Self {
        let moment = |at: DateTime<Utc>| Moment {
            seconds: at.timestamp(),
            nanos: at.timestamp_subsec_nanos(),
        };
        Self {
            start: Some(moment(start)),
            end: Some(moment(end)),
            ..Self::default()
        }
    }

    /// Both ends of its range of times, if it is one.
    fn times(&self) -> Result<Option<Times>> {
        let time = |moment: Moment| {
            DateTime::from_timestamp(moment.seconds, moment.nanos)
                .ok_or_else(|| Error::internal("a task has a range of times that are none"))
        };
        match (self.start, self.end) {
            (Some(start), Some(end)) => Ok(Some((time(start)?, time(end)?))),
            _ => Ok(None),
        }
    }

    fn entities(self) -> Result<EntityRows> {
        if let Some((start, end)) = self.times()? {
            return Ok(EntityRows::Range { start, end });
        }
        let (schema, batches) = read(&self.rows)?;
        Ok(EntityRows::Batches {
            schema,
            batches,
            timestamp_column: self.timestamp_column,
        })
    }
}

fn written(schema: &Schema, batches: &[RecordBatch]) -> Result<Bytes> {
    let options = IpcWriteOptions::default().try_with_compression(Some(CompressionType::LZ4_FRAME))?;
    let mut writer = StreamWriter::try_new_with_options(Vec::new(), schema, options)?;
    for batch in batches {
        writer.write(batch)?;
    }
    Ok(writer.into_inner()?.into())
}

fn read(bytes: &Bytes) -> Result<(SchemaRef, Vec<RecordBatch>)> {
    let reader = StreamReader::try_new(bytes.as_ref(), None)?;
    let schema = reader.schema();
    let batches = reader.collect::<Result<Vec<_>, _>>()?;
    Ok((schema, batches))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use arrow::{
        array::{Int64Array, TimestampMicrosecondArray},
        datatypes::{DataType, Field, TimeUnit},
    };
    use prost::Message as _;

    use super::*;

    #[test]
    fn a_question_and_its_rows_survive_the_way() {
        let time = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
        let fields = vec![
            Field::new("driver", DataType::Int64, true),
            Field::new("at", time, true),
        ];
        let metadata = [("pandas".to_owned(), "{}".to_owned())];
        let schema = Arc::new(Schema::new_with_metadata(fields, metadata.into()));
        let times = TimestampMicrosecondArray::from(vec![Some(1), None]).with_timezone("UTC");
        let columns: Vec<arrow::array::ArrayRef> = vec![
            Arc::new(Int64Array::from(vec![Some(7), Some(8)])),
            Arc::new(times),
        ];
        let rows = RecordBatch::try_new(Arc::clone(&schema), columns).unwrap();
        let view = JoinView {
            name: "trips".to_owned(),
            source: Arc::new(DataSource {
                name: "s".to_owned(),
                ..DataSource::default()
            }),
            join_keys: vec![JoinKey {
                entity_column: "driver".to_owned(),
                source_column: "id".to_owned(),
                value_type: ValueType::Int64,
            }],
            features: vec![JoinFeature {
                source_column: "x".to_owned(),
                output: "trips__x".to_owned(),
                value_type: ValueType::FloatList,
            }],
            ttl: Some(Duration::new(3, 5)),
        };
        let question = Question::new(std::slice::from_ref(&view), true, &schema).unwrap();
        let question = Question::decode(question.encode_to_vec().as_slice()).unwrap();
        assert_eq!(question.answer().unwrap(), schema);
        // Only the second row is sent.
        let share = Share::of_rows(&schema, &[rows.slice(1, 1)], "at").unwrap();
        let share = Share::decode(share.encode_to_vec().as_slice()).unwrap();
        let query = question.query(share).unwrap();
        assert!(query.filter_by_created);
        assert_eq!(format!("{:?}", query.views), format!("{:?}", [view]));
        let EntityRows::Batches {
            schema: sent,
            batches,
            timestamp_column,
        } = query.entities
        else {
            unreachable!("rows were sent");
        };
        assert_eq!((sent, timestamp_column.as_str()), (schema, "at"));
        assert_eq!(batches, [rows.slice(1, 1)]);
    }

    #[test]
    fn a_window_survives_the_way() {
        let time = DataType::Timestamp(TimeUnit::Nanosecond, Some("UTC".into()));
        let schema = Arc::new(Schema::new(vec![
            Field::new("driver", DataType::Int64, true),
            Field::new("x", DataType::Utf8, true),
            Field::new("at", time, true),
        ]));
        let start = DateTime::from_timestamp(-5, 7).unwrap();
        let end = DateTime::from_timestamp(9, 999_999_999).unwrap();
        let pull = Pull {
            source: Arc::new(DataSource {
                name: "s".to_owned(),
                timestamp_field: "at".to_owned(),
                ..DataSource::default()
            }),
            join_keys: vec!["driver".to_owned()],
            features: vec!["x".to_owned()],
            start: Some(start),
            end: Some(end),
            latest_only: false,
        };
        for scale in [Scale::Micros, Scale::Nanos] {
            let question = Question::of_window(&pull, &schema, scale).unwrap();
            let question = Question::decode(question.encode_to_vec().as_slice()).unwrap();
            assert_eq!(question.window_keys(), Some(1));
            // The columns, and marks of key, event time, created time and place.
            let answer = question.answer().unwrap();
            assert_eq!(answer.fields()[..3], schema.fields()[..]);
            assert_eq!(answer.fields().len(), 3 + 1 + 3);
            let (sent, compared) = question.pull(&Share::of_range(start, end)).unwrap().unwrap();
            assert_eq!((format!("{sent:?}"), compared), (format!("{pull:?}"), scale));
        }
        let joins = Question::new(&[], false, &schema).unwrap();
        assert!(joins.pull(&Share::of_range(start, end)).unwrap().is_none());
        assert_eq!(joins.window_keys(), None);
    }

    #[test]
    fn a_range_survives_the_way() {
        let start = DateTime::from_timestamp(-5, 7).unwrap();
        let end = DateTime::from_timestamp(9, 999_999_999).unwrap();
        let EntityRows::Range { start: s, end: e } = Share::of_range(start, end).entities().unwrap() else {
            unreachable!("a range was sent");
        };
        assert_eq!((s, e), (start, end));
    }
}
