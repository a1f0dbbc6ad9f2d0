//! The note in a Parquet file: a text that was saved with its rows, in the key-value metadata of its footer.

use datafusion::{
    datasource::{physical_plan::ParquetSource, source::DataSourceExec},
    execution::SessionState,
};

use super::table::Table;
use crate::error::Result;

/// The key it has in the file's metadata.
pub(super) const NOTE: &str = "thali.note";

impl Table {
    /// The note of the source's file, if it is one.
    pub(super) async fn note(&self, state: &SessionState) -> Result<Option<String>> {
        let plan = self.plan(state, &[], &[]).await?;
        let exec = plan.downcast_ref::<DataSourceExec>();
        let Some((config, _)) = exec.and_then(DataSourceExec::downcast_to_file_source::<ParquetSource>)
        else {
            return Ok(None);
        };
        // Of several files none says what they are together.
        if config.file_groups.iter().map(|group| group.len()).sum::<usize>() != 1 {
            return Ok(None);
        }
        let footers = self.footers(state, config).await?;
        let pairs = footers
            .first()
            .and_then(|(_, footer)| footer.file_metadata().key_value_metadata());
        let found = pairs.and_then(|pairs| pairs.iter().find(|pair| pair.key == NOTE));
        Ok(found.and_then(|pair| pair.value.clone()))
    }
}
