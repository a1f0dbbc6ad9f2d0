//! Writing tables: rows go in with `COPY` in one transaction, so all of them are there or none.

use std::{path::Path, sync::Arc};

use arrow::{
    array::{Array as _, ArrayRef},
    compute::{CastOptions, cast_with_options, concat_batches},
    datatypes::{DataType, Field, Schema, SchemaRef},
    record_batch::{RecordBatch, RecordBatchOptions},
};
use datafusion::{catalog::TableProvider as _, execution::SendableRecordBatchStream};
use futures::StreamExt;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, Row as _};

use super::{
    ANSWER_LIMIT, Server,
    scan::Rows,
    source::{Source, quoted},
    text::{column_type, write_csv},
};
use crate::{
    durable,
    error::{Error, Kind, Result},
    offline::{
        asof::times::is_readable,
        store::{Appended, Note, Refused, check_columns},
    },
    proto::feast::core::DataSource,
};

/// Rows that become text at a time.
const CHUNK_ROWS: usize = 1 << 12;

/// Bytes of a column's name; PostgreSQL cuts off more without an error.
const LONGEST_NAME: usize = 63;

/// Columns of a table and whether they fill themselves.
const COLUMNS: &str = "SELECT attname::text, atthasdef OR attidentity <> '' OR attgenerated <> '' FROM pg_attribute \
                       WHERE attrelid = $1::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum";

impl Server {
    /// Adds rows to a source; under a marker, those that an earlier call did not add, without those that the
    /// table refuses.
    pub(super) async fn append(
        self: &Arc<Self>,
        source: &DataSource,
        lies: &Source,
        batches: &[RecordBatch],
        marker: Option<&Path>,
    ) -> Result<Appended> {
        let whose = format!("data source `{}`", source.name);
        let table = table_of(&whose, lies)?;
        if let Some(marker) = marker
            && let Some(refused) = self.done(marker).await?
        {
            return Ok(Appended { rows: 0, refused });
        }
        let target = self.target(&whose, lies, table).await?;
        let batches = batches.iter().map(|batch| target.fitted(batch, source));
        let batches = together(&batches.collect::<Result<Vec<_>>>()?)?;
        let mut connection = self.writing().await?;
        let mut transaction = self.within(ANSWER_LIMIT, connection.begin()).await?;
        let mut appended = Appended::default();
        if let Some(marker) = marker {
            let number = sqlx::query_scalar("SELECT txid_current()").fetch_one(&mut *transaction);
            let number: i64 = self.within(ANSWER_LIMIT, number).await?;
            note(marker, number, &[]).await?;
            // Those that can wait are not checked in the end, when it cannot be told which row it was.
            self.run(
                &mut transaction,
                &whose,
                "SET CONSTRAINTS ALL IMMEDIATE".to_owned(),
            )
            .await?;
            let mut first = 0;
            for batch in &batches {
                self.copy_what_fits(&mut transaction, (&whose, table), (first, batch), &mut appended)
                    .await?;
                first += batch.num_rows();
            }
            if !appended.refused.is_empty() {
                note(marker, number, &appended.refused).await?;
            }
        } else {
            for batch in &batches {
                appended.rows += self.copy_in(&mut transaction, &whose, table, batch).await?;
            }
        }
        self.within(ANSWER_LIMIT, transaction.commit()).await?;
        Ok(appended)
    }

    /// Adds a batch, whose rows are numbered from the `first` on, but for rows that the table refuses: what
    /// holds one is halved until the row is found, so that few such rows cost few statements.
    async fn copy_what_fits(
        &self,
        connection: &mut PgConnection,
        (whose, table): (&str, &str),
        (first, batch): (usize, &RecordBatch),
        appended: &mut Appended,
    ) -> Result<()> {
        // The next is the last.
        let mut ranges = vec![(0, batch.num_rows())];
        while let Some((start, rows)) = ranges.pop() {
            self.run(connection, whose, "SAVEPOINT rows".to_owned()).await?;
            let copied = self
                .copy_in(connection, whose, table, &batch.slice(start, rows))
                .await;
            match copied {
                Ok(copied) => appended.rows += copied,
                Err(error) if !is_about_rows(&error) => return Err(error),
                Err(error) => {
                    self.run(connection, whose, "ROLLBACK TO SAVEPOINT rows".to_owned())
                        .await?;
                    if rows == 1 {
                        appended.refused.push(Refused {
                            row: first + start,
                            reason: error.message().to_owned(),
                        });
                    } else {
                        let half = rows / 2;
                        ranges.extend([(start + half, rows - half), (start, half)]);
                    }
                }
            }
            self.run(connection, whose, "RELEASE SAVEPOINT rows".to_owned())
                .await?;
        }
        Ok(())
    }

    /// The rows that were refused, if the transaction that a marker names has happened. The server knows of each
    /// for as long as it keeps rows of that age apart, which is hundreds of millions of transactions.
    async fn done(&self, marker: &Path) -> Result<Option<Vec<Refused>>> {
        let text = match tokio::fs::read_to_string(marker).await {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(unusable(marker, &error)),
        };
        let unknown = || {
            let text = format!(
                "it cannot be told any more whether the rows of `{}` are in the table",
                marker.display()
            );
            Error::unavailable(text)
                .hint("remove that file when they are not, or the one it is named after when they are")
        };
        let (number, refused): (i64, Vec<Refused>) = serde_json::from_str(&text).map_err(|_| unknown())?;
        let (mut connection, _turn) = self.asking().await?;
        let status = sqlx::query_scalar("SELECT txid_status($1)")
            .bind(number)
            .fetch_one(&mut connection);
        let status: Option<String> = self.within(ANSWER_LIMIT, status).await?;
        self.keep(connection);
        match status.as_deref() {
            Some("committed") => Ok(Some(refused)),
            Some("aborted") => Ok(None),
            Some(_) => Err(Error::unavailable(format!(
                "{} has not ended an earlier write yet",
                self.place
            ))),
            None => Err(unknown()),
        }
    }

    /// What a table takes.
    async fn target(self: &Arc<Self>, whose: &str, lies: &Source, table: &str) -> Result<Target> {
        let schema = Rows::open(self, whose, lies).await?.schema();
        let (mut connection, _turn) = self.asking().await?;
        let asked = sqlx::query(COLUMNS).bind(table).fetch_all(&mut connection);
        let asked = self.within(ANSWER_LIMIT, async { Ok(asked.await) }).await?;
        let found = asked.map_err(|error| self.refused(whose, error))?;
        self.keep(connection);
        let optional: Result<Vec<(String, bool)>, sqlx::Error> = found
            .iter()
            .map(|row| Ok((row.try_get(0)?, row.try_get(1)?)))
            .collect();
        let optional = optional.map_err(|error| self.failed(error))?;
        Ok(Target {
            whose: whose.to_owned(),
            table: table.to_owned(),
            schema,
            optional: optional
                .into_iter()
                .filter_map(|(name, fills_itself)| fills_itself.then_some(name))
                .collect(),
        })
    }

    /// Makes a table of a stream; the note is a comment on it.
    pub(super) async fn save(
        &self,
        source: &Source,
        mut rows: SendableRecordBatchStream,
        overwrite: bool,
        note: Option<Note>,
    ) -> Result<u64> {
        let whose = "the saved dataset";
        let table = table_of(whose, source)?;
        let mut connection = self.writing().await?;
        let mut transaction = self.within(ANSWER_LIMIT, connection.begin()).await?;
        if overwrite {
            self.run(&mut transaction, whose, format!("DROP TABLE IF EXISTS {table}"))
                .await?;
        }
        let make = format!("CREATE TABLE {table} ({})", columns_of(&rows.schema())?);
        let made = sqlx::query(AssertSqlSafe(make)).execute(&mut *transaction);
        let made = self.within(ANSWER_LIMIT, async { Ok(made.await) }).await?;
        made.map_err(|error| {
            // "Duplicate table", and the race of two that make it.
            let exists = |error: &sqlx::Error| match error {
                sqlx::Error::Database(said) => {
                    matches!(said.code().as_deref(), Some("42P07" | "23505"))
                }
                _ => false,
            };
            if exists(&error) {
                Error::new(Kind::AlreadyExists, format!("there is a table `{table}` already"))
                    .hint("choose another name, or allow it to be overwritten")
            } else {
                self.refused(whose, error)
            }
        })?;
        let mut count = 0;
        while let Some(batch) = rows.next().await {
            count += self.copy_in(&mut transaction, whose, table, &batch?).await?;
        }
        if let Some(note) = note {
            let quoted = sqlx::query_scalar("SELECT quote_literal($1)").bind(note()?);
            let quoted = quoted.fetch_one(&mut *transaction);
            let quoted: String = self.within(ANSWER_LIMIT, quoted).await?;
            let comment = format!("COMMENT ON TABLE {table} IS {quoted}");
            self.run(&mut transaction, whose, comment).await?;
        }
        self.within(ANSWER_LIMIT, transaction.commit()).await?;
        Ok(count)
    }

    /// The comment on a table.
    pub(super) async fn note(&self, table: &str) -> Result<Option<String>> {
        let (mut connection, _turn) = self.asking().await?;
        let asked = sqlx::query_scalar("SELECT obj_description($1::regclass, 'pg_class')").bind(table);
        let asked = asked.fetch_one(&mut connection);
        let asked = self.within(ANSWER_LIMIT, async { Ok(asked.await) }).await?;
        self.keep(connection);
        asked.map_err(|error| self.refused(&format!("table `{table}`"), error))
    }

    async fn run(&self, connection: &mut PgConnection, whose: &str, statement: String) -> Result<()> {
        let done = sqlx::query(AssertSqlSafe(statement)).execute(connection);
        let done = self.within(ANSWER_LIMIT, async { Ok(done.await) }).await?;
        done.map(drop).map_err(|error| self.refused(whose, error))
    }

    async fn copy_in(
        &self,
        connection: &mut PgConnection,
        whose: &str,
        table: &str,
        batch: &RecordBatch,
    ) -> Result<u64> {
        if batch.num_rows() == 0 {
            return Ok(0);
        }
        let refused = |error| self.refused(whose, error);
        let schema = batch.schema();
        let columns: Vec<_> = schema.fields().iter().map(|field| quoted(field.name())).collect();
        let statement = format!("COPY {table} ({}) FROM STDIN (FORMAT csv)", columns.join(", "));
        let mut copy = connection.copy_in_raw(&statement).await.map_err(refused)?;
        let mut text = String::new();
        for start in (0..batch.num_rows()).step_by(CHUNK_ROWS) {
            text.clear();
            let rows = CHUNK_ROWS.min(batch.num_rows() - start);
            write_csv(&batch.slice(start, rows), &mut text)?;
            copy.send(text.as_bytes()).await.map_err(refused)?;
        }
        copy.finish().await.map_err(refused)
    }
}

/// Batches with the same columns as one, since each is a statement of its own: a journal has one for every
/// push.
fn together(batches: &[RecordBatch]) -> Result<Vec<RecordBatch>> {
    let groups = batches.chunk_by(|one, other| one.schema() == other.schema());
    let joined = groups.map(|group| {
        let schema = group
            .first()
            .map_or_else(|| Arc::new(Schema::empty()), RecordBatch::schema);
        Ok(concat_batches(&schema, group)?)
    });
    joined.collect()
}

/// The table to write to.
fn table_of<'a>(whose: &str, source: &'a Source) -> Result<&'a str> {
    match source {
        Source::Table(name) => Ok(name),
        Source::Query(_) => Err(Error::unsupported(format!(
            "{whose} is a query: rows cannot be written to it"
        ))
        .hint("write to a source that is a table")),
    }
}

fn columns_of(schema: &Schema) -> Result<String> {
    let column = |field: &arrow::datatypes::FieldRef| {
        if field.name().len() > LONGEST_NAME {
            let text = format!(
                "`{}` is too long for the name of a column: PostgreSQL allows {LONGEST_NAME} bytes",
                field.name()
            );
            return Err(Error::invalid(text).hint("ask for short feature names, or save the rows as a file"));
        }
        Ok(format!(
            "{} {}",
            quoted(field.name()),
            column_type(field.data_type())
        ))
    };
    let columns = schema.fields().iter().map(column).collect::<Result<Vec<_>>>()?;
    Ok(columns.join(", "))
}

/// Whether it is what is in the rows that a table refuses: values that are none of its columns' (class 22), its
/// constraints (23), those of a view (44), or what a trigger of it says.
fn is_about_rows(error: &Error) -> bool {
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<sqlx::Error>());
    let said = source.and_then(sqlx::Error::as_database_error);
    said.and_then(sqlx::error::DatabaseError::code)
        .is_some_and(|code| ["22", "23", "44"].iter().any(|class| code.starts_with(class)) || code == "P0001")
}

/// Notes down a transaction before it ends, with the rows that it leaves out.
async fn note(marker: &Path, number: i64, refused: &[Refused]) -> Result<()> {
    let text = serde_json::to_string(&(number, refused))
        .map_err(|error| Error::internal("a marker cannot be written").source_error(error))?;
    let path = marker.to_owned();
    let written = tokio::task::spawn_blocking(move || durable::replace(&path, text.as_bytes()));
    written
        .await
        .unwrap_or_else(|error| Err(std::io::Error::other(error)))
        .map_err(|error| unusable(marker, &error))
}

fn unusable(marker: &Path, error: &std::io::Error) -> Error {
    Error::unavailable(format!("marker `{}`: {error}", marker.display()))
}

/// A table that rows are added to.
struct Target {
    whose: String,
    table: String,
    schema: SchemaRef,
    /// Columns that fill themselves.
    optional: Vec<String>,
}

impl Target {
    /// The rows with the columns of the table, named as they are there or as the source maps them.
    fn fitted(&self, batch: &RecordBatch, source: &DataSource) -> Result<RecordBatch> {
        let given = batch.schema();
        let (mut fields, mut columns) = (Vec::new(), Vec::new());
        let (mut missing, mut used) = (Vec::new(), Vec::new());
        for field in self.schema.fields() {
            let mapped = || source.field_mapping.get(field.name());
            let found = given.index_of(field.name()).ok();
            let Some(place) = found.or_else(|| given.index_of(mapped()?).ok()) else {
                if !self.optional.contains(field.name()) {
                    missing.push(field.name().as_str());
                }
                continue;
            };
            used.push(place);
            let column = fit(batch.column(place), field.data_type())
                .map_err(|error| error.context(format!("{}: column `{}`", self.whose, field.name())))?;
            fields.push(Field::new(field.name(), column.data_type().clone(), true));
            columns.push(column);
        }
        check_columns(&given, &used, &missing, &format!("table `{}`", self.table))
            .map_err(|error| error.context(&self.whose))?;
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        let schema = Arc::new(Schema::new(fields));
        Ok(RecordBatch::try_new_with_options(schema, columns, &options)?)
    }
}

/// A column whose text PostgreSQL reads as what is meant: moments in UTC, whole numbers without a point.
fn fit(column: &ArrayRef, stored: &DataType) -> Result<ArrayRef> {
    let given = column.data_type();
    let strict = CastOptions {
        safe: false,
        ..CastOptions::default()
    };
    let to = |data_type: &DataType| {
        cast_with_options(column, data_type, &strict)
            .map_err(|error| Error::invalid(format!("its {given} is no {stored}: {error}")))
    };
    match stored {
        DataType::Timestamp(unit, _) if is_readable(given) => {
            to(&DataType::Timestamp(*unit, Some("UTC".into())))
        }
        whole if whole.is_integer() && given.is_floating() => {
            let whole = to(whole)?;
            if cast_with_options(&whole, given, &strict)?.to_data() == column.to_data() {
                Ok(whole)
            } else {
                Err(Error::invalid(format!(
                    "its {given} has numbers that are no {stored}"
                )))
            }
        }
        _ => Ok(Arc::clone(column)),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use arrow::array::{AsArray as _, Float64Array, Int64Array, StringArray, TimestampMicrosecondArray};
    use arrow::datatypes::{Int64Type, TimeUnit, TimestampMicrosecondType};

    use super::*;

    #[test]
    fn columns_fit_or_are_refused() {
        let floats: ArrayRef = Arc::new(Float64Array::from(vec![Some(2.0), None]));
        let whole = fit(&floats, &DataType::Int64).unwrap();
        assert_eq!(
            whole.as_primitive::<Int64Type>(),
            &Int64Array::from(vec![Some(2), None])
        );
        let broken: ArrayRef = Arc::new(Float64Array::from(vec![2.5]));
        assert!(fit(&broken, &DataType::Int64).is_err());
        let utc = TimestampMicrosecondArray::from(vec![3_600_000_000]).with_timezone("UTC");
        let naive = DataType::Timestamp(TimeUnit::Microsecond, None);
        let text: ArrayRef = Arc::new(StringArray::from(vec!["1970-01-01T02:00:00+01:00"]));
        let zoned: ArrayRef = Arc::new(utc.clone().with_timezone("Europe/Berlin"));
        for given in [text, zoned] {
            let fitted = fit(&given, &naive).unwrap();
            assert_eq!(fitted.as_primitive::<TimestampMicrosecondType>(), &utc);
        }
        assert!(fit(&(Arc::new(StringArray::from(vec!["soon"])) as ArrayRef), &naive).is_err());
    }
}
