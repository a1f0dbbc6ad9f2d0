//! [`Rows`]: a table or query as a table of the query engine. A scan is one `COPY (SELECT …) TO STDOUT`:
//! the server sends rows as fast as they are taken, so that a few batches are held, whatever it has.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use arrow::{
    datatypes::{Field, Schema, SchemaRef},
    record_batch::{RecordBatch, RecordBatchOptions},
};
use async_trait::async_trait;
use datafusion::{
    catalog::{Session, TableProvider},
    common::ScalarValue,
    execution::{SendableRecordBatchStream, TaskContext},
    logical_expr::{BinaryExpr, Expr, Operator, TableType},
    physical_plan::{
        ExecutionPlan,
        stream::{RecordBatchReceiverStreamBuilder, RecordBatchStreamAdapter},
        streaming::{PartitionStream, StreamingTableExec},
    },
};
use futures::StreamExt;
use sqlx::{AssertSqlSafe, Column as _, Executor as _, SqlSafeStr as _, Statement as _};
use tokio::sync::mpsc::Sender;

use super::{
    ANSWER_LIMIT, Server,
    cells::{Cell, Column, field},
    snapshot::Snapshot,
    source::{Source, quoted},
};
use crate::{
    error::{Error, Result},
    offline::files::KNOWN_BY,
};

/// Rows of a batch, unless they are long.
const BATCH_ROWS: usize = 1 << 13;
/// Bytes of a batch, about.
const BATCH_BYTES: usize = 4 << 20;
/// Batches that may wait for their reader.
const WAITING: usize = 2;
/// How the binary form begins; flags and the length of an extension follow.
const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0";
const HEADER: usize = SIGNATURE.len() + 8;
/// Has rows of a table come in the order in which they are stored, from the first. Of rows with equal times
/// it is their order that decides, and a join and a materialization must not decide differently.
const IN_PLACE: &str = "SET synchronize_seqscans = off; SET max_parallel_workers_per_gather = 0";

/// See the module.
#[derive(Debug)]
pub(super) struct Rows {
    server: Arc<Server>,
    /// Whose rows they are, for messages.
    whose: String,
    from: String,
    columns: Vec<(String, Cell)>,
    schema: SchemaRef,
    /// Whether they are of a table.
    stored: bool,
    /// The table, when scans are to say by what their rows are known.
    known: Option<String>,
}

impl Rows {
    /// Asks the server for the columns.
    ///
    /// # Errors
    /// `InvalidArgument` when PostgreSQL refuses the table or query, `Unavailable` when it is away.
    pub(super) async fn open(server: &Arc<Server>, whose: &str, source: &Source) -> Result<Self> {
        let from = source.from();
        // The extended protocol takes one statement only, so this is the check that it is one.
        let statement = AssertSqlSafe(format!("SELECT * FROM {from}")).into_sql_str();
        let (mut connection, _turn) = server.asking().await?;
        let asked = async { Ok((&mut connection).prepare(statement).await) };
        let prepared = server.within(ANSWER_LIMIT, asked).await?;
        server.keep(connection);
        let prepared = prepared.map_err(|error| server.refused(whose, error))?;
        let columns: Vec<(String, Cell)> = prepared
            .columns()
            .iter()
            .map(|column| (column.name().to_owned(), Cell::of(column.type_info())))
            .collect();
        let fields = columns
            .iter()
            .map(|(name, cell)| Field::new(name, cell.data_type(), true));
        let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        Ok(Self {
            server: Arc::clone(server),
            whose: whose.to_owned(),
            from,
            columns,
            schema,
            stored: matches!(source, Source::Table(_)),
            known: None,
        })
    }

    /// The same, with scans that say by what their rows are known if they are a table's.
    pub(super) fn known(self, source: &Source) -> Self {
        let known = match source {
            Source::Table(name) => Some(name.clone()),
            Source::Query(_) => None,
        };
        Self { known, ..self }
    }

    /// All rows and columns.
    pub(super) fn all(&self) -> SendableRecordBatchStream {
        let places: Vec<usize> = (0..self.columns.len()).collect();
        Scan::new(self, &places, &[]).stream()
    }
}

#[async_trait]
impl TableProvider for Rows {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        _state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        _limit: Option<usize>,
    ) -> datafusion::error::Result<Arc<dyn ExecutionPlan>> {
        let all: Vec<usize>;
        let places = match projection {
            Some(places) => places,
            None => {
                all = (0..self.columns.len()).collect();
                &all
            }
        };
        let mut scan = Scan::new(self, places, filters);
        if let Some(table) = &self.known {
            scan.hold(table, &self.from, filters).await?;
        }
        let scan = Arc::new(scan);
        let schema = Arc::clone(&scan.schema);
        let plan = StreamingTableExec::try_new(schema, vec![scan], None, None, false, None)?;
        Ok(Arc::new(plan))
    }
}

/// Some columns and rows.
struct Scan {
    server: Arc<Server>,
    whose: String,
    sql: String,
    stored: bool,
    cells: Vec<Cell>,
    schema: SchemaRef,
    /// What the rows are read from, until they are, when they are known.
    snapshot: Option<Mutex<Option<Snapshot>>>,
}

impl fmt::Debug for Scan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sql)
    }
}

impl Scan {
    fn new(rows: &Rows, places: &[usize], filters: &[Expr]) -> Self {
        let wanted = places.iter().filter_map(|&place| rows.columns.get(place));
        let (mut names, mut cells, mut fields) = (Vec::new(), Vec::new(), Vec::new());
        for (name, cell) in wanted {
            names.push(cell.selected(&quoted(name)));
            cells.push(*cell);
            fields.push(Field::new(name, cell.data_type(), true));
        }
        let wanted = conditions(filters);
        let columns = names.join(", ");
        Self {
            server: Arc::clone(&rows.server),
            whose: rows.whose.clone(),
            sql: format!(
                "COPY (SELECT {columns} FROM {}{wanted}) TO STDOUT (FORMAT binary)",
                rows.from
            ),
            stored: rows.stored,
            cells,
            schema: Arc::new(Schema::new(fields)),
            snapshot: None,
        }
    }

    /// Holds the rows as they are now and says by what they are known, if that can be told.
    async fn hold(&mut self, table: &str, from: &str, filters: &[Expr]) -> Result<()> {
        let snapshot = Snapshot::of(&self.server, table, &format!("{from}{}", conditions(filters))).await?;
        if let Some((snapshot, known_by)) = snapshot {
            let metadata = [(KNOWN_BY.to_owned(), known_by)].into();
            self.schema = Arc::new(self.schema.as_ref().clone().with_metadata(metadata));
            self.snapshot = Some(Mutex::new(Some(snapshot)));
        }
        Ok(())
    }

    /// The rows, asked for when the first of them is wanted; forgetting the stream ends the scan.
    fn stream(&self) -> SendableRecordBatchStream {
        let (schema, reading) = (Arc::clone(&self.schema), self.reading());
        let batches = futures::stream::once(async move {
            let mut builder = RecordBatchReceiverStreamBuilder::new(Arc::clone(&reading.schema), WAITING);
            let sender = builder.tx();
            builder.spawn(async move { Ok(reading.run(&sender).await?) });
            builder.build()
        });
        Box::pin(RecordBatchStreamAdapter::new(schema, batches.flatten()))
    }

    fn reading(&self) -> Reading {
        let held = self.snapshot.as_ref().map(|held| {
            let mut held = held.lock().unwrap_or_else(PoisonError::into_inner);
            held.take()
        });
        Reading {
            from: match held {
                None => Origin::Now,
                Some(snapshot) => snapshot.map_or(Origin::Past, Origin::Snapshot),
            },
            server: Arc::clone(&self.server),
            whose: self.whose.clone(),
            sql: self.sql.clone(),
            stored: self.stored,
            schema: Arc::clone(&self.schema),
            columns: self.cells.iter().copied().map(Column::new).collect(),
            rows: 0,
            bytes: 0,
        }
    }
}

impl PartitionStream for Scan {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _context: Arc<TaskContext>) -> SendableRecordBatchStream {
        self.stream()
    }
}

/// What comes after the table, for those conditions that can be said in SQL.
fn conditions(filters: &[Expr]) -> String {
    let conditions: Vec<String> = filters.iter().filter_map(condition).collect();
    match conditions.join(" AND ") {
        none if none.is_empty() => none,
        conditions => format!(" WHERE {conditions}"),
    }
}

/// A condition in SQL, if it is of the kind that scans are given: a column and a literal compared.
fn condition(filter: &Expr) -> Option<String> {
    let Expr::BinaryExpr(BinaryExpr { left, op, right }) = filter else {
        return None;
    };
    let (Expr::Column(column), Expr::Literal(literal, _)) = (left.as_ref(), right.as_ref()) else {
        return None;
    };
    let operator = match op {
        Operator::GtEq => ">=",
        Operator::LtEq => "<=",
        _ => return None,
    };
    let literal = match literal {
        ScalarValue::Int32(Some(whole)) => format!("'{whole}'::int4"),
        ScalarValue::Int64(Some(whole)) => format!("'{whole}'::int8"),
        ScalarValue::TimestampMicrosecond(Some(micros), zone) => {
            let moment = chrono::DateTime::from_timestamp_micros(*micros)?;
            // Years are written in other ways beyond these.
            if !(1..=9999).contains(&chrono::Datelike::year(&moment)) {
                return None;
            }
            let (name, offset) = match zone {
                Some(_) => ("timestamptz", "+00"),
                None => ("timestamp", ""),
            };
            format!("'{}{offset}'::{name}", moment.format("%Y-%m-%d %H:%M:%S%.6f"))
        }
        _ => return None,
    };
    Some(format!("{} {operator} {literal}", quoted(&column.name)))
}

/// Where the rows of a scan come from.
enum Origin {
    Now,
    Snapshot(Snapshot),
    /// A snapshot that was read already.
    Past,
}

/// A scan that runs.
struct Reading {
    from: Origin,
    server: Arc<Server>,
    whose: String,
    sql: String,
    stored: bool,
    schema: SchemaRef,
    columns: Vec<Column>,
    rows: usize,
    bytes: usize,
}

impl Reading {
    async fn run(mut self, to: &Sender<datafusion::error::Result<RecordBatch>>) -> Result<()> {
        let (mut connection, _turn) = match std::mem::replace(&mut self.from, Origin::Past) {
            Origin::Now => self.server.reading().await?,
            Origin::Snapshot(snapshot) => snapshot.into_connection(),
            Origin::Past => {
                return Err(Error::internal(
                    "rows that were held for one reading are read again",
                ));
            }
        };
        if self.stored {
            let set = sqlx::raw_sql(IN_PLACE).execute(&mut connection);
            self.server.within(ANSWER_LIMIT, set).await?;
        }
        let refused = |error| self.server.refused(&self.whose, error);
        let mut chunks = connection.copy_out_raw(&self.sql).await.map_err(refused)?;
        let (mut kept, mut begun) = (Vec::new(), false);
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk.map_err(|error| self.server.refused(&self.whose, error))?;
            // Nearly always a chunk is one row; what is cut is kept until the rest is there.
            kept.extend_from_slice(&chunk);
            let mut rest = kept.as_slice();
            if !begun {
                if rest.len() < HEADER {
                    continue;
                }
                rest = after_header(rest)?;
                begun = true;
            }
            while let Some(row) = next_row(&mut rest, self.columns.len())? {
                self.take(row)?;
                if (self.rows == BATCH_ROWS || self.bytes >= BATCH_BYTES)
                    && to.send(Ok(self.batch()?)).await.is_err()
                {
                    return Ok(());
                }
            }
            let taken = kept.len() - rest.len();
            kept.drain(..taken);
        }
        if self.rows > 0 {
            // The reader may have gone, which is no error.
            _ = to.send(Ok(self.batch()?)).await;
        }
        Ok(())
    }

    fn take(&mut self, mut row: &[u8]) -> Result<()> {
        self.bytes += row.len();
        self.rows += 1;
        for (column, described) in self.columns.iter_mut().zip(self.schema.fields()) {
            let value = field(&mut row)?;
            column
                .push(value)
                .map_err(|error| error.context(format!("{}: column `{}`", self.whose, described.name())))?;
        }
        Ok(())
    }

    fn batch(&mut self) -> Result<RecordBatch> {
        let columns = self.columns.iter_mut().map(Column::finish);
        let columns = columns.collect::<Result<Vec<_>>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(self.rows));
        (self.rows, self.bytes) = (0, 0);
        Ok(RecordBatch::try_new_with_options(
            Arc::clone(&self.schema),
            columns,
            &options,
        )?)
    }
}

fn after_header(bytes: &[u8]) -> Result<&[u8]> {
    let malformed = || Error::internal("PostgreSQL answered in no binary form that is known");
    let rest = bytes.strip_prefix(SIGNATURE).ok_or_else(malformed)?;
    // Flags, then an extension that no server has had yet.
    let (head, rest) = rest.split_at_checked(8).ok_or_else(malformed)?;
    if head[4..] == [0; 4] {
        Ok(rest)
    } else {
        Err(malformed())
    }
}

/// The fields of the next row, when all of it is there; the end of the data is no row.
fn next_row<'a>(rest: &mut &'a [u8], columns: usize) -> Result<Option<&'a [u8]>> {
    let Some((count, fields)) = rest.split_first_chunk() else {
        return Ok(None);
    };
    let count = i16::from_be_bytes(*count);
    if count == -1 {
        *rest = &[];
        return Ok(None);
    }
    if usize::try_from(count) != Ok(columns) {
        return Err(Error::internal(
            "PostgreSQL sent a row with other columns than asked for",
        ));
    }
    let mut length = 0;
    for _ in 0..columns {
        let Some((size, _)) = fields.get(length..).and_then(<[u8]>::split_first_chunk) else {
            return Ok(None);
        };
        length += 4 + usize::try_from(i32::from_be_bytes(*size)).unwrap_or_default();
    }
    let Some((row, after)) = fields.split_at_checked(length) else {
        return Ok(None);
    };
    *rest = after;
    Ok(Some(row))
}
