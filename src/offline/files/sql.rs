//! Entity rows from SQL: one `SELECT` over the project's file sources, by their names.
//!
//! Tables are the sources as they are stored, with names and columns as they are written. Nothing else can
//! be reached: no other file, no settings, and nothing is changed.

use std::sync::Arc;

use arrow::{datatypes::SchemaRef, record_batch::RecordBatch};
use datafusion::{
    catalog::{
        CatalogProvider, MemoryCatalogProvider, MemoryCatalogProviderList, MemorySchemaProvider,
        SchemaProvider,
    },
    common::TableReference,
    execution::{SendableRecordBatchStream, SessionStateBuilder, memory_pool::MemoryConsumer},
    logical_expr::LogicalPlan,
    prelude::{SQLOptions, SessionContext},
    sql::{parser::DFParser, resolve::resolve_table_references, sqlparser::dialect::PostgreSqlDialect},
};
use futures::StreamExt;

use super::FileStore;
use crate::{
    error::{Error, Result},
    offline::{
        asof::out_of_memory,
        store::{bytes_of, listed},
    },
    proto::feast::core::DataSource,
};

impl FileStore {
    /// The names of the tables that a query reads; none when it is not in the SQL that is understood here.
    pub(in crate::offline) fn tables_of(sql: &str) -> Vec<String> {
        let dialect = PostgreSqlDialect {};
        let Ok(Some(statement)) =
            DFParser::parse_sql_with_dialect(sql, &dialect).map(|mut all| all.pop_front())
        else {
            return Vec::new();
        };
        let tables = resolve_table_references(&statement, false);
        let tables = tables.map(|(tables, _)| tables).unwrap_or_default();
        tables.iter().map(|table| table.table().to_owned()).collect()
    }

    /// The rows of a query.
    ///
    /// # Errors
    /// `InvalidArgument` when it is no query over known sources, `Overloaded` when its rows do not fit
    /// the memory limit.
    pub(super) async fn rows_of_sql(
        &self,
        sql: &str,
        sources: &[DataSource],
    ) -> Result<(SchemaRef, Vec<RecordBatch>)> {
        let wrong = |error: datafusion::error::DataFusionError| {
            Error::invalid(format!(
                "the SQL for the entity rows is wrong: {}",
                error.strip_backtrace()
            ))
        };
        let mut config = self.state.config().clone();
        let options = config.options_mut();
        options.sql_parser.enable_ident_normalization = false;
        options.sql_parser.map_string_types_to_utf8view = false;
        options.catalog.create_default_catalog_and_schema = false;
        let (catalog, schema) = (
            options.catalog.default_catalog.clone(),
            options.catalog.default_schema.clone(),
        );
        let tables = Arc::new(MemorySchemaProvider::new());
        let only = MemoryCatalogProvider::new();
        only.register_schema(&schema, Arc::clone(&tables) as Arc<dyn SchemaProvider>)?;
        let catalogs = MemoryCatalogProviderList::new();
        datafusion::catalog::CatalogProviderList::register_catalog(&catalogs, catalog, Arc::new(only));
        let state = SessionStateBuilder::new_from_existing(self.state.clone())
            .with_config(config)
            .with_catalog_list(Arc::new(catalogs))
            .build();
        let dialect = state.config().options().sql_parser.dialect;
        let statement = state.sql_to_statement(sql, &dialect).map_err(wrong)?;
        for table in state.resolve_table_references(&statement).map_err(wrong)? {
            let TableReference::Bare { table: name } = &table else {
                return Err(unknown(&table.to_string(), sources));
            };
            let source = sources.iter().find(|source| source.name == **name);
            let source = source.ok_or_else(|| unknown(name, sources))?;
            let provider = self.open(source).await?.into_provider();
            tables.register_table(name.to_string(), provider)?;
        }
        let plan = state.statement_to_plan(statement).await.map_err(wrong)?;
        let reads = SQLOptions::new()
            .with_allow_ddl(false)
            .with_allow_dml(false)
            .with_allow_statements(false);
        reads.verify_plan(&plan).map_err(wrong)?;
        if matches!(
            plan,
            LogicalPlan::Explain(_) | LogicalPlan::Analyze(_) | LogicalPlan::DescribeTable(_)
        ) {
            return Err(Error::invalid("the SQL for the entity rows is no `SELECT`"));
        }
        let frame = SessionContext::new_with_state(state)
            .execute_logical_plan(plan)
            .await
            .map_err(wrong)?;
        self.gathered(frame.execute_stream().await?).await
    }

    /// Entity rows of a query, as far as the memory limit allows.
    pub(in crate::offline) async fn gathered(
        &self,
        mut rows: SendableRecordBatchStream,
    ) -> Result<(SchemaRef, Vec<RecordBatch>)> {
        let held = MemoryConsumer::new("entity rows of a query").register(&self.pool);
        let (schema, mut batches) = (rows.schema(), Vec::new());
        while let Some(batch) = rows.next().await {
            let batch = batch?;
            held.try_grow(bytes_of(&batch))
                .map_err(|error| out_of_memory(&error))?;
            batches.push(batch);
        }
        Ok((schema, batches))
    }
}

fn unknown(table: &str, sources: &[DataSource]) -> Error {
    let names = listed(sources.iter().map(|source| source.name.as_str()));
    Error::invalid(format!(
        "the SQL for the entity rows reads `{table}`, which is no data source"
    ))
    .hint(format!(
        "tables are the data sources of the project, by their names: {names}"
    ))
}
