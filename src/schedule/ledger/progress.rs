//! How far runs came: their counts, requests to stop them, and what the next run goes on from.

use super::{Failure, Ledger, Value, count, text};
use crate::error::Result;

/// What a run has done so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Rows of the window looked at.
    pub read: u64,
    /// Rows stored.
    pub written: u64,
    /// Rows passed over because an earlier run that did not finish had stored them.
    pub resumed: u64,
    /// Writes to the store.
    pub chunks: u64,
}

impl Ledger {
    /// Writes a run's counts and shows that its process lives; answers whether it was asked to stop.
    ///
    /// # Errors
    /// `Unavailable` when the ledger cannot be written.
    pub async fn heartbeat(&self, id: &str, counts: Counts) -> Result<bool> {
        let statement = format!(
            "UPDATE thali_runs SET heartbeat_at = {}, rows_read = ?, rows_written = ? \
             WHERE id = ? AND state = 'running'",
            self.database.now()
        );
        let values = [count(counts.read), count(counts.written), text(id)];
        self.write(&statement, &values).await?;
        self.write_progress(id, counts).await?;
        let asked = "SELECT run_id FROM thali_progress WHERE run_id = ? AND cancel_requested = 1";
        Ok(!self.read(asked, &[text(id)]).await?.is_empty())
    }

    pub(super) async fn write_progress(&self, id: &str, counts: Counts) -> Result<()> {
        let statement = "UPDATE thali_progress SET rows_resumed = ?, chunks = ? WHERE run_id = ?";
        let values = [count(counts.resumed), count(counts.chunks), text(id)];
        self.write(statement, &values).await?;
        Ok(())
    }

    /// Asks a run to stop, wherever it runs; `false` when there is no such run, or it has ended.
    ///
    /// # Errors
    /// `Unavailable` when the ledger cannot be written.
    pub async fn cancel(&self, id: &str) -> Result<bool> {
        let statement = "UPDATE thali_progress SET cancel_requested = 1 WHERE run_id = ? \
             AND EXISTS (SELECT 1 FROM thali_runs WHERE id = ? AND state = 'running')";
        Ok(self.write(statement, &[text(id), text(id)]).await? > 0)
    }

    /// What the last unfinished run of a view left for the next one.
    ///
    /// # Errors
    /// `Unavailable` when the ledger cannot be read.
    pub async fn checkpoint(&self, project: &str, feature_view: &str) -> Result<Option<String>> {
        let statement = "SELECT state FROM thali_checkpoints WHERE project = ? AND feature_view = ?";
        let rows = self.read(statement, &[text(project), text(feature_view)]).await?;
        rows.first().map(|row| self.get(row, "state")).transpose()
    }

    /// Keeps what the next run goes on from should this one not finish; nothing, once it has.
    ///
    /// # Errors
    /// `Unavailable` when the ledger cannot be written.
    pub async fn set_checkpoint(&self, project: &str, feature_view: &str, state: Option<&str>) -> Result<()> {
        let place = || [text(project), text(feature_view)];
        let Some(state) = state else {
            let statement = "DELETE FROM thali_checkpoints WHERE project = ? AND feature_view = ?";
            self.write(statement, &place()).await?;
            return Ok(());
        };
        let with_state = || {
            let [project, feature_view] = place();
            [Value::Text(Some(state.to_owned())), project, feature_view]
        };
        let update = "UPDATE thali_checkpoints SET state = ? WHERE project = ? AND feature_view = ?";
        if self.write(update, &with_state()).await? > 0 {
            return Ok(());
        }
        let insert = "INSERT INTO thali_checkpoints (state, project, feature_view) VALUES (?, ?, ?)";
        match self.write(insert, &with_state()).await {
            // Only one run of a view holds its lease; a lost one may still be ending.
            Ok(_) | Err(Failure::Duplicate) => Ok(()),
            Err(Failure::Other(error)) => Err(error),
        }
    }
}
