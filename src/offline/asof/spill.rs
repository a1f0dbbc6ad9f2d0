//! [`Spill`]: the answer's columns of one source, on disk until the answer is made.
//!
//! Batches are Arrow IPC in one file without a name in the folder for temporary files (`TMPDIR`): it is
//! gone when the process is, however that ends. Each batch can be read by itself.

use std::{
    fs::File,
    io::{Read as _, Seek as _, SeekFrom, Write as _},
    sync::{Arc, Mutex, PoisonError},
};

use arrow::{
    array::ArrayRef,
    datatypes::{Field, Schema},
    ipc::{reader::StreamReader, writer::StreamWriter},
    record_batch::{RecordBatch, RecordBatchOptions},
};

use super::{entities::Part, matched::Matched, pass::Answer};
use crate::error::{Error, Result};

/// See the module.
pub(super) struct Spill {
    file: Mutex<File>,
    /// Where each batch ends.
    ends: Vec<u64>,
}

impl Spill {
    /// Writes the columns of these views of a source, part by part.
    ///
    /// # Errors
    /// `Unavailable` when the file cannot be written.
    pub(super) fn write(matched: &[Matched], answers: &[Answer], parts: &[Part]) -> Result<Self> {
        let mut file = tempfile::tempfile().map_err(failed)?;
        let fields: Vec<Field> = answers
            .iter()
            .flat_map(|answer| answer.outputs.iter().map(|(field, _)| field.clone()))
            .collect();
        let schema = Arc::new(Schema::new(fields));
        let mut ends = Vec::with_capacity(parts.len());
        let mut end = 0;
        for part in parts {
            let mut columns = Vec::with_capacity(schema.fields().len());
            for answer in answers {
                columns.extend(matched[answer.probe].columns(answer, part)?);
            }
            let options = RecordBatchOptions::new().with_row_count(Some(part.rows));
            let batch = RecordBatch::try_new_with_options(Arc::clone(&schema), columns, &options)?;
            let mut writer = StreamWriter::try_new(Vec::new(), &schema)?;
            writer.write(&batch)?;
            let bytes = writer.into_inner()?;
            file.write_all(&bytes).map_err(failed)?;
            end += bytes.len() as u64;
            ends.push(end);
        }
        Ok(Self {
            file: Mutex::new(file),
            ends,
        })
    }

    /// The columns of a part.
    ///
    /// # Errors
    /// `Unavailable` when the file cannot be read.
    pub(super) fn read(&self, part: usize) -> Result<Vec<ArrayRef>> {
        let start = part.checked_sub(1).map_or(0, |before| self.ends[before]);
        let length = usize::try_from(self.ends[part] - start).map_err(|_| failed("it is too long"))?;
        let mut bytes = vec![0; length];
        {
            let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
            file.seek(SeekFrom::Start(start)).map_err(failed)?;
            file.read_exact(&mut bytes).map_err(failed)?;
        }
        let mut batches = StreamReader::try_new(bytes.as_slice(), None)?;
        let batch = batches.next().ok_or_else(|| failed("it has no rows"))??;
        Ok(batch.columns().to_vec())
    }
}

fn failed(error: impl std::fmt::Display) -> Error {
    Error::unavailable(format!(
        "the temporary file of a join that is bigger than memory failed: {error}"
    ))
    .hint("`TMPDIR` names the folder it is in")
}
