//! [`Rows`]: rows of a segment that their source will not take, on their way to a file of their own.

use std::{path::Path, sync::Arc};

use arrow::record_batch::RecordBatch;
use bytes::Bytes;

use super::{record, segment::SEGMENT};
use crate::{
    durable,
    error::Result,
    metrics::{Metrics, SourceLabel},
    offline::store::Refused,
    proto::feast::core::DataSource,
};

/// What files of refused rows are called, before the folder and the number of the segment they were in.
const PREFIX: &str = "refused";
/// Says in the metadata of a row's columns why it was refused.
const REASON: &str = "thali.refused";

/// See the module.
#[derive(Default)]
pub(super) struct Rows {
    records: Vec<Bytes>,
    /// Of each source how many, and why the first of them.
    sources: Vec<(String, usize, String)>,
}

impl Rows {
    /// Adds those of a source.
    pub(super) fn add(
        &mut self,
        source: DataSource,
        batches: &[RecordBatch],
        refused: &[Refused],
    ) -> Result<()> {
        let Some(first) = refused.first() else {
            return Ok(());
        };
        self.sources
            .push((source.name.clone(), refused.len(), first.reason.clone()));
        let source = Arc::new(source);
        let mut refused = refused.iter().peekable();
        let mut begin = 0;
        for batch in batches {
            let end = begin + batch.num_rows();
            while let Some(row) = refused.next_if(|row| row.row < end) {
                let mut schema = batch.schema().as_ref().clone();
                schema.metadata.insert(REASON.to_owned(), row.reason.clone());
                let one = batch.slice(row.row - begin, 1).with_schema(Arc::new(schema))?;
                self.records.push(record::encode(&[(Arc::clone(&source), one)])?);
            }
            begin = end;
        }
        Ok(())
    }

    /// Writes them to a file named after their segment, beside its folder; again with the same rows when a
    /// process ended before the segment was removed.
    pub(super) fn set_aside(&self, segment: &Path, metrics: &Metrics) -> std::io::Result<()> {
        let (Some(folder), Some(number)) = (segment.parent(), segment.file_stem()) else {
            return Ok(());
        };
        let (Some(journal), Some(name), false) =
            (folder.parent(), folder.file_name(), self.records.is_empty())
        else {
            return Ok(());
        };
        let (name, number) = (name.display(), number.display());
        let path = journal.join(format!("{PREFIX}-{name}-{number}.{SEGMENT}"));
        durable::replace(&path, &self.records.concat())?;
        for (source, rows, reason) in &self.sources {
            tracing::error!(source, rows, reason, file = %path.display(), "pushed rows were refused and set aside");
            let label = SourceLabel {
                data_source: source.clone(),
            };
            metrics.refused_rows.get_or_create(&label).inc_by(*rows as u64);
        }
        Ok(())
    }
}
