//! [`LogPlace`]: where a feature service's log of served requests lies, and how rows are added to it.
//!
//! A log is a folder of Parquet files, and every write adds one. With `partition_by` the files lie in a
//! folder for each value, called by the value alone, as Feast's file store does it; unlike there the files
//! keep those columns, without which Feast's own readers do not find them again.
//!
//! What is in a log is decided by `crate::online::feature_log`, or by whoever uploads one.

use std::{collections::BTreeMap, fmt::Write as _, sync::Arc};

use arrow::{
    array::{Array as _, StringArray, UInt32Array},
    compute::{cast, take_record_batch},
    datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit},
    record_batch::RecordBatch,
};
use chrono::Utc;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use uuid::Uuid;

use super::store::OfflineStore;
use crate::{
    error::{Error, Result},
    model::ObjectKind,
    proto::feast::core::{
        DataSource, FeatureServiceSpec,
        data_source::{FileOptions, Options, SourceType},
        logging_config::{Destination, FileDestination},
    },
    registry::Catalog,
};

/// The time of a served request.
pub const LOG_TIMESTAMP: &str = "__log_timestamp";
/// Its day.
pub const LOG_DATE: &str = "__log_date";
/// Which request a row was served in.
pub const REQUEST_ID: &str = "__request_id";

/// See the module.
#[derive(Debug, Clone, PartialEq)]
pub struct LogPlace {
    service: String,
    file: FileDestination,
}

impl LogPlace {
    /// The place of a service's log.
    ///
    /// # Errors
    /// `InvalidArgument` when the service is not logged, `Unsupported` when it is not logged into files.
    pub fn of(spec: &FeatureServiceSpec) -> Result<Self> {
        let service = &spec.name;
        let Some(logging) = &spec.logging_config else {
            return Err(Error::invalid(format!(
                "feature service `{service}` has no logging configuration"
            ))
            .hint("set `logging_config` on the feature service"));
        };
        let kind = match &logging.destination {
            Some(Destination::FileDestination(file)) if !file.path.is_empty() => {
                return Ok(Self {
                    service: service.clone(),
                    file: file.clone(),
                });
            }
            Some(Destination::FileDestination(_)) => "a file destination without a path",
            Some(Destination::BigqueryDestination(_)) => "BigQuery",
            Some(Destination::RedshiftDestination(_)) => "Redshift",
            Some(Destination::SnowflakeDestination(_)) => "Snowflake",
            Some(Destination::AthenaDestination(_)) => "Athena",
            Some(Destination::CouchbaseColumnarDestination(_)) => "Couchbase",
            Some(Destination::CustomDestination(custom)) => custom.kind.as_str(),
            None => "nothing",
        };
        Err(Error::unsupported(format!(
            "feature service `{service}` logs to {kind}, which thali does not do"
        ))
        .hint("give its `logging_config` a file destination"))
    }

    /// The log as a source to read, whose rows are as old as their requests.
    pub fn source(&self) -> DataSource {
        DataSource {
            timestamp_field: LOG_TIMESTAMP.to_owned(),
            ..self.at(self.file.path.clone())
        }
    }

    /// The log that Feast's SDK means by a source of that name: it calls it by its path.
    ///
    /// # Errors
    /// What reading a service's definition returns.
    pub fn called(catalog: &Catalog, name: &str) -> Result<Option<Self>> {
        for service in catalog.objects(ObjectKind::FeatureService) {
            let spec = catalog.service(&service.name)?.spec.as_ref();
            let place = spec.and_then(|spec| Self::of(spec).ok());
            if let Some(place) = place.filter(|place| place.file.path == name) {
                return Ok(Some(place));
            }
        }
        Ok(None)
    }

    fn at(&self, uri: String) -> DataSource {
        DataSource {
            name: format!("log of {}", self.service),
            r#type: SourceType::BatchFile.into(),
            options: Some(Options::FileOptions(FileOptions {
                uri,
                s3_endpoint_override: self.file.s3_endpoint_override.clone(),
                ..FileOptions::default()
            })),
            ..DataSource::default()
        }
    }

    /// Adds rows; the same rows under the same name are added once.
    ///
    /// # Errors
    /// As [`LogPlace::parts`] and [`LogPlace::write`].
    pub async fn append(
        &self,
        offline: &Arc<dyn OfflineStore>,
        batches: Vec<RecordBatch>,
        once: Option<Uuid>,
    ) -> Result<u64> {
        let mut rows = 0;
        for (folder, batches) in self.parts(batches)? {
            rows += self.add(offline, &folder, batches, once).await?;
        }
        Ok(rows)
    }

    /// The rows by the folders they go to; a folder's name is empty where nothing is partitioned.
    ///
    /// # Errors
    /// `InvalidArgument` when a column they are partitioned by is missing.
    pub fn parts(&self, batches: Vec<RecordBatch>) -> Result<BTreeMap<String, Vec<RecordBatch>>> {
        let mut parts: BTreeMap<String, Vec<RecordBatch>> = BTreeMap::new();
        for batch in batches.into_iter().filter(|batch| batch.num_rows() > 0) {
            if self.file.partition_by.is_empty() {
                parts.entry(String::new()).or_default().push(batch);
                continue;
            }
            for (folder, rows) in self.folders(&batch)? {
                let part = if rows.len() == batch.num_rows() {
                    batch.clone()
                } else {
                    take_record_batch(&batch, &UInt32Array::from(rows))?
                };
                parts.entry(folder).or_default().push(part);
            }
        }
        Ok(parts)
    }

    fn folders(&self, batch: &RecordBatch) -> Result<BTreeMap<String, Vec<u32>>> {
        let texts = |name: &String| {
            let column = batch.column_by_name(name).ok_or_else(|| {
                Error::invalid(format!(
                    "the log of feature service `{}` is partitioned by `{name}`, which its rows lack",
                    self.service
                ))
            })?;
            Ok(cast(column, &DataType::Utf8)?)
        };
        let columns = self.file.partition_by.iter().map(texts);
        let columns = columns.collect::<Result<Vec<_>>>()?;
        let mut folders: BTreeMap<String, Vec<u32>> = BTreeMap::new();
        let count = u32::try_from(batch.num_rows())
            .map_err(|_| Error::invalid("too many rows in one piece of a log"))?;
        for row in 0..count {
            let mut folder = String::new();
            for column in &columns {
                let texts = column.as_any().downcast_ref::<StringArray>();
                let text = texts.filter(|texts| texts.is_valid(row as usize));
                push_name(
                    &mut folder,
                    text.map_or("null", |texts| texts.value(row as usize)),
                );
            }
            folders.entry(folder).or_default().push(row);
        }
        Ok(folders)
    }

    /// Adds the rows of one of the parts as a file.
    ///
    /// # Errors
    /// What the offline store says.
    pub async fn write(
        &self,
        offline: &Arc<dyn OfflineStore>,
        folder: &str,
        batches: Vec<RecordBatch>,
    ) -> Result<u64> {
        self.add(offline, folder, batches, None).await
    }

    async fn add(
        &self,
        offline: &Arc<dyn OfflineStore>,
        folder: &str,
        batches: Vec<RecordBatch>,
        once: Option<Uuid>,
    ) -> Result<u64> {
        let Some(first) = batches.first() else {
            return Ok(0);
        };
        if let Some(rows) = offline.log(&self.service, &batches).await? {
            return Ok(rows);
        }
        let schema = storable(&first.schema());
        let batches = batches
            .iter()
            .map(|batch| fitted(batch, &schema))
            .collect::<Result<Vec<_>>>()?;
        // A file of the same name is one of the same rows.
        let name = match once {
            Some(once) => once.simple().to_string(),
            None => format!(
                "{}-{}",
                Utc::now().format("%Y%m%dT%H%M%S"),
                Uuid::now_v7().simple()
            ),
        };
        let name = format!("{}/{folder}{name}.parquet", self.file.path.trim_end_matches('/'));
        let batches = futures::stream::iter(batches.into_iter().map(Ok));
        let rows = Box::pin(RecordBatchStreamAdapter::new(schema, batches));
        offline.save(&self.at(name), rows, once.is_some(), None).await
    }
}

/// Adds a folder's name to a path. Readers pass over names that begin with a dot or an underscore.
fn push_name(path: &mut String, name: &str) {
    for (place, byte) in name.bytes().enumerate() {
        let is_plain = byte.is_ascii_alphanumeric() || byte == b'-' || place > 0 && b"._".contains(&byte);
        if is_plain {
            path.push(char::from(byte));
        } else {
            // Writing to a `String` cannot fail.
            let _ = write!(path, "%{byte:02X}");
        }
    }
    path.push('/');
}

/// Parquet has no times in whole seconds, of which Feast's logs are full.
fn storable(schema: &Schema) -> SchemaRef {
    let fields = schema.fields().iter().map(|field| {
        let data_type = without_seconds(field.data_type());
        Field::new(field.name(), data_type, field.is_nullable())
    });
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

fn without_seconds(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Timestamp(TimeUnit::Second, zone) => {
            DataType::Timestamp(TimeUnit::Millisecond, zone.clone())
        }
        DataType::List(item) => {
            let inner = without_seconds(item.data_type());
            DataType::List(Arc::new(Field::new(item.name(), inner, item.is_nullable())))
        }
        other => other.clone(),
    }
}

fn fitted(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    let columns = batch
        .columns()
        .iter()
        .zip(schema.fields())
        .map(|(column, field)| {
            if column.data_type() == field.data_type() {
                Ok(Arc::clone(column))
            } else {
                cast(column, field.data_type())
            }
        });
    let columns = columns.collect::<std::result::Result<Vec<_>, _>>()?;
    Ok(RecordBatch::try_new(Arc::clone(schema), columns)?)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use arrow::array::{ArrayRef, Date32Array, Int64Array, TimestampSecondArray};

    use super::*;
    use crate::{error::Kind, proto::feast::core::LoggingConfig};

    fn place(partition_by: &[&str]) -> LogPlace {
        let destination = Destination::FileDestination(FileDestination {
            path: "logs/".to_owned(),
            partition_by: partition_by.iter().map(ToString::to_string).collect(),
            ..FileDestination::default()
        });
        LogPlace::of(&spec(Some(destination))).unwrap()
    }

    fn spec(destination: Option<Destination>) -> FeatureServiceSpec {
        FeatureServiceSpec {
            name: "delays".to_owned(),
            logging_config: Some(LoggingConfig {
                sample_rate: 1.0,
                destination,
            }),
            ..FeatureServiceSpec::default()
        }
    }

    fn rows() -> RecordBatch {
        let columns: [(&str, ArrayRef); 3] = [
            (LOG_DATE, Arc::new(Date32Array::from(vec![0, 1, 0]))),
            (
                "carrier",
                Arc::new(StringArray::from(vec![Some("_a/b"), Some("UA"), None])),
            ),
            ("seats", Arc::new(Int64Array::from(vec![1, 2, 3]))),
        ];
        RecordBatch::try_from_iter(columns).unwrap()
    }

    #[test]
    fn each_value_has_a_folder_and_rows_keep_their_columns() {
        let parts = place(&[LOG_DATE]).parts(vec![rows()]).unwrap();
        let names: Vec<_> = parts.keys().map(String::as_str).collect();
        assert_eq!(names, ["1970-01-01/", "1970-01-02/"]);
        assert_eq!(parts["1970-01-01/"][0].num_rows(), 2);
        assert_eq!(parts["1970-01-01/"][0].num_columns(), 3);
        let names: Vec<_> = place(&[LOG_DATE, "carrier"])
            .parts(vec![rows()])
            .unwrap()
            .into_keys()
            .collect();
        assert_eq!(
            names,
            ["1970-01-01/%5Fa%2Fb/", "1970-01-01/null/", "1970-01-02/UA/"]
        );
        assert_eq!(place(&[]).parts(vec![rows()]).unwrap()[""][0], rows());
        let refused = place(&["pilot"]).parts(vec![rows()]).unwrap_err();
        assert!(refused.message().contains("`pilot`"), "{refused}");
    }

    #[test]
    fn whole_seconds_are_stored_as_milliseconds() {
        let column: ArrayRef = Arc::new(TimestampSecondArray::from(vec![Some(7), None]).with_timezone("UTC"));
        let batch = RecordBatch::try_from_iter([("x", column)]).unwrap();
        let schema = storable(&batch.schema());
        let fitted = fitted(&batch, &schema).unwrap();
        let wanted = DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into()));
        assert_eq!(fitted.column(0).data_type(), &wanted);
        assert_eq!(fitted.column(0).null_count(), 1);
    }

    #[test]
    fn other_destinations_are_refused_by_name() {
        let refused = LogPlace::of(&spec(Some(Destination::BigqueryDestination(
            crate::proto::feast::core::logging_config::BigQueryDestination::default(),
        ))));
        let refused = refused.unwrap_err();
        assert_eq!(refused.kind(), Kind::Unsupported);
        assert!(refused.message().contains("BigQuery"), "{refused}");
        let none = LogPlace::of(&FeatureServiceSpec::default()).unwrap_err();
        assert_eq!(none.kind(), Kind::InvalidArgument);
    }
}
