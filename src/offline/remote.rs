//! [`RemoteStore`]: Feast's `offline_store: {type: remote}`: another offline server, Feast's or thali's, over
//! Arrow Flight (`feast/infra/offline_stores/remote.py`).
//!
//! The server knows views and sources by the names under which they are registered, so both sides share a
//! registry or have the same definitions. What lies here is read and written here: files of entity rows and
//! of saved datasets are no registered sources. On-demand views are computed here. Leaving out rows by when they were
//! created is no part of Feast's protocol: thali's server does it, and of another it is noticed that it did not.
//!
//! So are rows that are saved at the server's sources and tables, with a note: Feast's server saves only what it
//! makes itself. Rows that are to be appended once: see `once`.
//!
//! What cannot be had, whoever the server is: going on with a materialization that was killed, since nothing says
//! whether the source is what it was.

mod features;
mod once;
mod server;

use std::{path::Path, sync::Arc};

use arrow::{
    array::{ArrayRef, AsArray as _, RecordBatch, StringArray},
    compute::{cast, concat_batches},
    datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit},
};
use async_trait::async_trait;
use chrono::{DateTime, SecondsFormat, TimeZone as _, Utc};
use datafusion::{execution::SendableRecordBatchStream, physical_plan::stream::RecordBatchStreamAdapter};
use futures::{StreamExt as _, TryStreamExt as _};
use prost::Message as _;
use serde_json::{Value as Json, json};
use uuid::Uuid;

use self::features::{Again, Answer, Asked, Beside, Group, found};
pub use self::server::Server;
use super::{
    files::FileStore,
    flight::{
        beyond::{GIVEN_ROWS, KNOWN_AS_OF, NOTE, ONCE},
        type_named,
    },
    postgres,
    served_log::LogPlace,
    store::{Appended, EntityRows, HistoricalQuery, JoinView, Note, OfflineStore, Parts, Pull, bytes_of},
};
use crate::{
    config::schema::{Kind as Holds, Schema as Keys, Unknown, used},
    error::{Error, Kind, Result},
    model::{Object, ObjectKind, feature_view::DUMMY_JOIN_KEY},
    proto::feast::core::{DataSource, data_source::Options},
    registry::Registry,
};

/// The keys of the section (Feast's `RemoteOfflineStoreConfig`).
pub(crate) static SCHEMA: Keys = Keys {
    unknown: Unknown::Refused,
    keys: &[
        used("type", Holds::Text, Some("remote")),
        used("scheme", Holds::Choice(&["http", "https"]), Some("http")),
        used("host", Holds::Text, None),
        used("port", Holds::Int, None),
        used("cert", Holds::Text, Some("")),
        used("connection_retries", Holds::Int, Some("3")),
    ],
};

/// The longest window that a server of pandas understands, whose times end in 2262.
const EVER: (i32, i32) = (1678, 2262);

/// See the module.
pub struct RemoteStore {
    server: Server,
    registry: Arc<Registry>,
    project: String,
    files: FileStore,
    /// Bytes of answers that may be gathered.
    limit: usize,
}

impl RemoteStore {
    /// A store on a server; `files` is for what lies here.
    pub fn new(
        server: Server,
        registry: Arc<Registry>,
        project: String,
        files: FileStore,
        limit: usize,
    ) -> Self {
        Self {
            server,
            registry,
            project,
            files,
            limit,
        }
    }

    /// The name under which the server knows a source; none of a file that is neither a source nor a log of the
    /// definitions: it is read and written here.
    async fn name_there(&self, source: &DataSource) -> Result<Option<String>> {
        let known = Some(source.name.clone());
        let file = match &source.options {
            Some(Options::FileOptions(file)) if source.data_source_class_type.is_empty() => file,
            _ => return Ok(known),
        };
        let catalog = self.registry.catalog(&self.project).await?;
        if catalog.object(ObjectKind::DataSource, &source.name).is_some() {
            return Ok(known);
        }
        let log = LogPlace::called(&catalog, &file.uri)?;
        Ok(log.map(|_| file.uri.clone()))
    }

    async fn is_here(&self, source: &DataSource) -> Result<bool> {
        Ok(self.name_there(source).await?.is_none())
    }

    /// A source as it travels.
    fn proto(&self, source: &DataSource) -> Result<String> {
        let object = Object {
            kind: ObjectKind::DataSource,
            project: self.project.clone(),
            name: source.name.clone(),
            bytes: source.encode_to_vec().into(),
        };
        Ok(object.to_json()?.to_string())
    }

    /// Rows together, as they are sent.
    async fn gathered(&self, mut rows: SendableRecordBatchStream) -> Result<RecordBatch> {
        let (mut batches, mut held) = (Vec::new(), 0);
        while let Some(batch) = rows.next().await.transpose()? {
            held += bytes_of(&batch);
            if held > self.limit {
                return Err(Error::new(
                    Kind::TooLarge,
                    "the rows to save with a remote offline store are larger than the memory limit",
                )
                .hint("save them as a file that is no data source, or raise `memory_limit` in the `thali` section"));
            }
            batches.push(batch);
        }
        Ok(concat_batches(&rows.schema(), &batches)?)
    }

    /// What is asked of a group of views, with or without rows that were created later than they are asked for.
    fn question(&self, group: &Group, known_as_of: bool) -> Json {
        let plain = |view: &JoinView| view.name.split("@v").next().unwrap_or_default().to_owned();
        let views: Vec<String> = group.views.iter().map(plain).collect();
        let references = group.views.iter().flat_map(|view| {
            let reference = |name: &String| format!("{}:{name}", view.name);
            view.features
                .iter()
                .map(move |feature| reference(&feature.source_column))
        });
        let mut question = json!({
            "name_aliases": vec![Json::Null; views.len()],
            "feature_view_names": views,
            "feature_refs": references.collect::<Vec<_>>(),
            "project": self.project,
            "full_feature_names": true,
        });
        if known_as_of {
            question[KNOWN_AS_OF] = json!(true);
        }
        question
    }

    async fn beside(
        &self,
        views: Vec<JoinView>,
        (schema, batches, time): (SchemaRef, Vec<RecordBatch>, String),
        known_as_of: bool,
    ) -> Result<SendableRecordBatchStream> {
        let wanted: Vec<String> = outputs(&views).collect();
        let mut answers = Vec::new();
        for group in Group::of(views) {
            let asked = Asked::new(&group, &schema, &batches, &time)?;
            let rows = match asked.upload.num_rows() {
                0 => None,
                _ => {
                    let upload = Some(asked.upload.clone());
                    let question = self.question(&group, known_as_of);
                    Some(
                        self.server
                            .read("get_historical_features", question, upload)
                            .await?,
                    )
                }
            };
            let again = group.one_by_one().into_iter().map(|(view, features)| Again {
                server: self.server.clone(),
                question: self.question(&view, known_as_of),
                features,
            });
            answers.push(Answer::new(&group, asked, rows, self.limit, again.collect())?);
        }
        let entities = super::asof::entities::Entities::new(Arc::clone(&schema), Vec::new(), &time)?;
        let mut fields: Vec<_> = entities.fields().cloned().collect();
        let entities = concat_batches(&schema, &batches)?;
        let columns = entities.columns().iter().zip(&fields).map(|(column, field)| {
            match field.name() == &time && !super::asof::times::is_moment(column.data_type()) {
                true => {
                    let moments =
                        super::asof::times::moments(column, super::asof::times::Scale::Micros, &time)?;
                    Ok(cast(&moments, field.data_type())?)
                }
                false => Ok::<_, Error>(cast(column, field.data_type())?),
            }
        });
        let columns = columns.collect::<Result<Vec<_>>>()?;
        let options =
            arrow::record_batch::RecordBatchOptions::new().with_row_count(Some(entities.num_rows()));
        let entities =
            RecordBatch::try_new_with_options(Arc::new(Schema::new(fields.clone())), columns, &options)?;
        let mut order = Vec::new();
        for output in &wanted {
            let place = answers.iter().enumerate().find_map(|(number, answer)| {
                let place = answer.fields.iter().position(|field| field.name() == output)?;
                Some((number, place))
            });
            let (number, place) = place.ok_or_else(|| Error::internal("a feature was not asked for"))?;
            fields.push(Arc::clone(&answers[number].fields[place]));
            order.push((number, place));
        }
        let metadata = schema.metadata().clone();
        let schema = Arc::new(Schema::new_with_metadata(fields, metadata));
        let beside = Beside {
            entities,
            waiting: answers.iter().map(|_| Vec::new()).collect(),
            answers,
            order,
            schema: Arc::clone(&schema),
            done: 0,
        };
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, beside.rows())))
    }

    /// A question whose entity rows only the server knows.
    async fn elsewhere(
        &self,
        views: Vec<JoinView>,
        rows: EntityRows,
        known_as_of: bool,
    ) -> Result<SendableRecordBatchStream> {
        let mut groups = Group::of(views);
        let (Some(group), true) = (groups.pop(), groups.is_empty()) else {
            return Err(Error::unsupported(
                "views whose join keys are called in several ways cannot be asked for without entity rows \
                 from a remote offline store",
            )
            .hint("send the entity rows as a table"));
        };
        let mut question = self.question(&group, known_as_of);
        let keys_first = match rows {
            EntityRows::Range { start, end } => {
                question["start_date"] = json!(iso(start));
                question["end_date"] = json!(iso(end));
                true
            }
            EntityRows::Query(sql) if group.is_plain() => {
                question["entity_df_sql"] = json!(sql);
                false
            }
            _ => {
                return Err(Error::unsupported(
                    "aliases of views cannot be used with a query for entity rows and a remote offline store",
                )
                .hint("send the entity rows as a table"));
            }
        };
        let rows = self
            .server
            .read("get_historical_features", question, None)
            .await?;
        let answer = rows.schema();
        let features: Vec<(String, String)> = group
            .features()
            .map(|(name, feature)| (name, feature.output.clone()))
            .collect();
        let mut columns: Vec<(String, String)> = Vec::new();
        if keys_first {
            columns.push(("event_timestamp".to_owned(), "event_timestamp".to_owned()));
            columns.extend(group.keys().cloned());
        } else {
            let names = answer.fields().iter().map(|field| field.name());
            let entity = names.filter(|name| features.iter().all(|(feature, _)| feature != *name));
            columns.extend(entity.map(|name| (name.clone(), name.clone())));
        }
        columns.extend(features);
        renamed(rows, &columns, &["event_timestamp"])
    }
}

/// What the features of views are called in the result.
fn outputs(views: &[JoinView]) -> impl Iterator<Item = String> + '_ {
    let features = views.iter().flat_map(|view| &view.features);
    features.map(|feature| feature.output.clone())
}

fn iso(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Micros, false)
}

/// These columns, under their second names; columns of times in UTC.
fn renamed(
    rows: SendableRecordBatchStream,
    columns: &[(String, String)],
    times: &[&str],
) -> Result<SendableRecordBatchStream> {
    let answer = rows.schema();
    let mut fields = Vec::with_capacity(columns.len());
    let mut places = Vec::with_capacity(columns.len());
    for (name, output) in columns {
        if output == DUMMY_JOIN_KEY && answer.index_of(name).is_err() {
            fields.push(Field::new(output, DataType::Utf8, false));
            places.push(None);
            continue;
        }
        let field = found(&answer, name)?;
        let data_type = match field.data_type() {
            DataType::Timestamp(unit, _) if times.contains(&output.as_str()) => {
                DataType::Timestamp(*unit, Some("UTC".into()))
            }
            other if times.contains(&output.as_str()) && super::asof::times::is_moment(other) => {
                DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
            }
            other => other.clone(),
        };
        fields.push(Field::new(output, data_type, true));
        places.push(Some(answer.index_of(name)?));
    }
    let schema = Arc::new(Schema::new(fields));
    let output = Arc::clone(&schema);
    let rows = rows.map(move |batch| {
        let batch = batch?;
        let columns = output
            .fields()
            .iter()
            .zip(&places)
            .map(|(field, place)| -> Result<ArrayRef> {
                Ok(match place {
                    Some(place) => cast(batch.column(*place), field.data_type())?,
                    None => Arc::new(StringArray::from(vec![""; batch.num_rows()])),
                })
            });
        let columns = columns.collect::<Result<Vec<_>>>()?;
        Ok(RecordBatch::try_new(Arc::clone(&output), columns).map_err(Error::from)?)
    });
    Ok(Box::pin(RecordBatchStreamAdapter::new(schema, rows)))
}

#[async_trait]
impl OfflineStore for RemoteStore {
    async fn historical(&self, query: HistoricalQuery) -> Result<SendableRecordBatchStream> {
        let known_as_of = query.filter_by_created;
        match query.entities {
            EntityRows::Batches {
                schema,
                batches,
                timestamp_column,
            } => {
                self.beside(query.views, (schema, batches, timestamp_column), known_as_of)
                    .await
            }
            rows => self.elsewhere(query.views, rows, known_as_of).await,
        }
    }

    async fn pull(&self, pull: Pull) -> Result<SendableRecordBatchStream> {
        let source = &pull.source;
        let Some(name) = self.name_there(source).await? else {
            return self.files.pull(pull).await;
        };
        // The server wants names as they are stored, and answers with them.
        let stored = |name: &String| {
            let mapped = source.field_mapping.iter().find(|(_, mapped)| *mapped == name);
            mapped.map_or_else(|| name.clone(), |(stored, _)| stored.clone())
        };
        let (time, created) = (&source.timestamp_field, &source.created_timestamp_column);
        let keys = pull.join_keys.iter().filter(|key| *key != DUMMY_JOIN_KEY);
        let created = (!created.is_empty()).then_some(created);
        let is_time = |name: &String| name == time || Some(name) == created;
        let features = pull.features.iter().filter(|name| !is_time(name));
        let at = |given: Option<DateTime<Utc>>, year: i32| {
            let ever = Utc.with_ymd_and_hms(year, 1, 1, 0, 0, 0).single();
            given.or(ever).map(iso)
        };
        let parameters = json!({
            "data_source_name": name,
            "join_key_columns": keys.map(stored).collect::<Vec<_>>(),
            "feature_name_columns": features.clone().map(stored).collect::<Vec<_>>(),
            "timestamp_field": stored(time),
            "created_timestamp_column": created.map(stored),
            "start_date": at(pull.start, EVER.0),
            "end_date": at(pull.end, EVER.1),
        });
        let api = match pull.latest_only {
            true => "pull_latest_from_table_or_query",
            false => "pull_all_from_table_or_query",
        };
        let rows = self.server.read(api, parameters, None).await?;
        let mut columns: Vec<(String, String)> = Vec::new();
        let all = pull.join_keys.iter().chain(features);
        for name in all.chain(std::iter::once(time)).chain(created) {
            if columns.iter().all(|(_, known)| known != name) {
                columns.push((stored(name), name.clone()));
            }
        }
        let times: Vec<&str> = std::iter::once(time).chain(created).map(String::as_str).collect();
        renamed(rows, &columns, &times)
    }

    async fn pull_parts(&self, pull: Pull) -> Result<Parts> {
        if self.is_here(&pull.source).await? {
            return self.files.pull_parts(pull).await;
        }
        Ok(Parts::whole(self.pull(pull).await?))
    }

    async fn append(
        &self,
        source: &DataSource,
        batches: Vec<RecordBatch>,
        once: Option<&Path>,
    ) -> Result<Appended> {
        if self.is_here(source).await? {
            return self.files.append(source, batches, once).await;
        }
        // The server takes rows for a view, and adds them to the view's source.
        let catalog = self.registry.catalog(&self.project).await?;
        let reads = |view: &&Arc<crate::model::FeatureView>| {
            let batch = view.batch_source.as_ref();
            batch.is_some_and(|batch| batch.name == source.name)
        };
        let view = catalog
            .stored_views()
            .into_iter()
            .find(reads)
            .map(|view| view.name.clone());
        let view = view.ok_or_else(|| {
            let text = format!(
                "rows for data source `{}` cannot be sent: a remote offline store takes them for feature \
                 views, and none reads it",
                source.name
            );
            Error::invalid(text)
        })?;
        let Some(schema) = batches.first().map(RecordBatch::schema) else {
            return Ok(Appended::default());
        };
        let rows = concat_batches(&schema, &batches)?;
        let count = rows.num_rows() as u64;
        let parameters = json!({"feature_view_names": [view], "name_aliases": [null], "progress": null});
        let api = "offline_write_batch";
        if let Some(marker) = once {
            return once::append(&self.server, (api, parameters), rows, marker).await;
        }
        self.server.write(api, parameters, Some(rows), false).await?;
        Ok(Appended::all(count))
    }

    async fn save(
        &self,
        target: &DataSource,
        rows: SendableRecordBatchStream,
        overwrite: bool,
        note: Option<Note>,
    ) -> Result<u64> {
        if self.is_here(target).await? {
            return self.files.save(target, rows, overwrite, note).await;
        }
        let (server, name) = (&self.server, &target.name);
        if !server.knows(GIVEN_ROWS).await? {
            let address = server.address();
            return Err(Error::unsupported(format!(
                "offline server `{address}` saves no rows that are sent to it, and `{name}` lies there"
            ))
            .hint("save them as a file that is no data source, which lies here; thali's own offline server does"));
        }
        let rows = self.gathered(rows).await?;
        let count = rows.num_rows() as u64;
        let note = note.map(|note| note()).transpose()?;
        let parameters = json!({
            "data_source_name": name,
            "data_source_proto": self.proto(target)?,
            "allow_overwrite": overwrite,
            "timeout": null,
            "retrieve_func": GIVEN_ROWS,
            NOTE: note,
        });
        server.write("persist", parameters, Some(rows), false).await?;
        Ok(count)
    }

    fn as_saved(
        &self,
        target: &DataSource,
        rows: SendableRecordBatchStream,
    ) -> Result<SendableRecordBatchStream> {
        postgres::as_saved(target, rows)
    }

    async fn log(&self, service: &str, batches: &[RecordBatch]) -> Result<Option<u64>> {
        let Some(first) = batches.first() else {
            return Ok(Some(0));
        };
        let rows = concat_batches(&first.schema(), batches)?;
        let count = rows.num_rows() as u64;
        let is_known_again = self.server.knows(ONCE).await?;
        let mut parameters = json!({"feature_service_name": service});
        if is_known_again {
            parameters[ONCE] = json!(Uuid::now_v7());
        }
        let api = "write_logged_features";
        let written = self
            .server
            .write(api, parameters, Some(rows), is_known_again)
            .await;
        written.map_err(|unwritten| match unwritten.may_have_happened {
            // What is unavailable is tried again, and these rows would be there twice.
            true => Error::new(Kind::DeadlineExceeded, unwritten.error.one_line()),
            false => unwritten.error,
        })?;
        Ok(Some(count))
    }

    async fn note(&self, source: &DataSource) -> Result<Option<String>> {
        let Some(name) = self.name_there(source).await? else {
            return self.files.note(source).await;
        };
        let read = self.server.read(NOTE, json!({"data_source_name": name}), None);
        let rows = match read.await {
            Ok(rows) => rows,
            Err(error) if error.kind() == Kind::Unsupported => return Ok(None),
            Err(error) => return Err(error),
        };
        let (schema, batches): (_, Vec<RecordBatch>) = (rows.schema(), rows.try_collect().await?);
        let rows = concat_batches(&schema, &batches)?;
        let texts = cast(
            rows.column(schema.index_of(found(&schema, NOTE)?.name())?),
            &DataType::Utf8,
        )?;
        let first = texts.as_string::<i32>().iter().next();
        Ok(first.flatten().map(str::to_owned))
    }

    fn takes_queries(&self) -> bool {
        true
    }

    async fn schema(&self, source: &DataSource) -> Result<SchemaRef> {
        if self.is_here(source).await? {
            return self.files.schema(source).await;
        }
        let parameters = json!({"data_source_proto": self.proto(source)?});
        let api = "get_table_column_names_and_types_from_data_source";
        let rows = self.server.read(api, parameters, None).await?;
        let schema = rows.schema();
        let batches: Vec<RecordBatch> = rows.try_collect().await?;
        let columns = concat_batches(&schema, &batches)?;
        let text = |name: &str| {
            let place = schema.index_of(found(&schema, name)?.name())?;
            Ok::<_, Error>(cast(columns.column(place), &DataType::Utf8)?)
        };
        let (names, types) = (text("name")?, text("type")?);
        let fields = names.as_string::<i32>().iter().zip(types.as_string::<i32>());
        let fields = fields.filter_map(|(name, kind)| Some(Field::new(name?, type_named(kind?), true)));
        Ok(Arc::new(Schema::new(fields.collect::<Vec<_>>())))
    }

    async fn rows_at_most(
        &self,
        source: &DataSource,
        start: DateTime<Utc>,
        end: DateTime<Utc>,
    ) -> Option<u64> {
        if source.data_source_class_type.is_empty() {
            self.files.rows_at_most(source, start, end).await
        } else {
            None
        }
    }

    async fn check(&self) -> Result<()> {
        self.server.check().await
    }
}
