//! Saving rows as a data set that says what it was made of.

use std::sync::{Arc, Mutex, PoisonError};

use chrono::{DateTime, Utc};
use datafusion::{execution::SendableRecordBatchStream, physical_plan::stream::RecordBatchStreamAdapter};
use futures::{TryStreamExt as _, future::ready};

use super::manifest::{Definition, Fingerprinter, Manifest};
use crate::{
    error::Result,
    offline::store::{Note, OfflineStore},
    proto::feast::core::DataSource,
};

/// Saves rows that were made by `definition` of what was known at a moment; answers the manifest, which is kept
/// with them as a note.
///
/// # Errors
/// What the rows and the store return.
pub(crate) async fn save(
    offline: &dyn OfflineStore,
    target: &DataSource,
    rows: SendableRecordBatchStream,
    overwrite: bool,
    (definition, known_as_of): (Definition, DateTime<Utc>),
) -> Result<Manifest> {
    let (rows, taken) = fingerprinted(offline.as_saved(target, rows)?);
    let manifest = move || Manifest {
        definition: definition.clone(),
        known_as_of,
        rows: taken.lock().unwrap_or_else(PoisonError::into_inner).finish(),
    };
    let noted = manifest.clone();
    let note: Note = Box::new(move || Ok(noted().note()));
    offline.save(target, rows, overwrite, Some(note)).await?;
    Ok(manifest())
}

/// Rows of which a fingerprint is taken as they pass.
fn fingerprinted(rows: SendableRecordBatchStream) -> (SendableRecordBatchStream, Arc<Mutex<Fingerprinter>>) {
    let schema = rows.schema();
    let taken = Arc::new(Mutex::new(Fingerprinter::new(&schema)));
    let taking = Arc::clone(&taken);
    let passed = rows.and_then(move |batch| {
        let mut taking = taking.lock().unwrap_or_else(PoisonError::into_inner);
        let added = taking.add(&batch).map(|()| batch);
        ready(added.map_err(Into::into))
    });
    (Box::pin(RecordBatchStreamAdapter::new(schema, passed)), taken)
}
