//! Proving that a saved dataset can be made again: its entity rows are joined anew to the definitions that
//! there are now, and what comes out must be what the manifest says, and what lies in the dataset's place.
//!
//! Only the entity rows are held in memory, as in every join. A dataset without a manifest, one that Feast's
//! SDK made, is compared with what lies in its place.

use futures::StreamExt as _;
use serde::Serialize;

use super::{
    Dataset, Readable, Rebuilt,
    compare::{Difference, compare},
    manifest::{Definition, Fingerprint, Fingerprinter, Manifest},
};
use crate::{
    context::Context,
    error::{Error, Result},
    registry::Catalog,
};

/// What came of it.
#[derive(Debug, Serialize)]
pub struct Verdict {
    pub dataset: String,
    /// Whether the same rows came out again.
    pub same: bool,
    /// What is not as it should be, in words.
    pub reasons: Vec<String>,
    /// Definitions that are not what they were, in words; they may still give the same rows.
    pub definition_changes: Vec<String>,
    pub manifest: Option<Manifest>,
    /// What lies in the dataset's place.
    pub stored: Option<Fingerprint>,
    /// What came out now.
    pub rebuilt: Option<Fingerprint>,
    /// From what is stored to what came out now.
    pub difference: Option<Difference>,
}

/// Rebuilds a dataset and says whether it is the same.
///
/// # Errors
/// What reading and joining return, where it is not the dataset's fault.
pub async fn verify(context: &Context, catalog: &Catalog, dataset: &Dataset) -> Result<Verdict> {
    let manifest = dataset.manifest()?;
    let definition = Definition::of(catalog, &dataset.wanted(), dataset.spec.full_feature_names)?;
    let mut verdict = Verdict {
        dataset: dataset.name.clone(),
        same: false,
        reasons: Vec::new(),
        definition_changes: manifest
            .as_ref()
            .map(|manifest| manifest.definition.differences(&definition))
            .unwrap_or_default(),
        manifest,
        stored: None,
        rebuilt: None,
        difference: None,
    };
    let rebuilt = Rebuilt {
        context,
        catalog,
        dataset,
    };
    if !verdict.take("stored", fingerprint(dataset).await)?
        || !verdict.take("rebuilt", fingerprint(&rebuilt).await)?
    {
        return Ok(verdict);
    }
    verdict.judge();
    if verdict.stored != verdict.rebuilt {
        let key = dataset.key().await?;
        match compare(dataset, &rebuilt, &key).await {
            Ok(difference) => verdict.difference = Some(difference),
            Err(error) if error.kind().is_callers_fault() => verdict.reasons.push(error.one_line()),
            Err(error) => return Err(error),
        }
    }
    Ok(verdict)
}

impl Verdict {
    /// Keeps a fingerprint, or the reason for which there is none.
    fn take(&mut self, what: &str, taken: Result<Fingerprint>) -> Result<bool> {
        match taken {
            Ok(taken) if what == "stored" => self.stored = Some(taken),
            Ok(taken) => self.rebuilt = Some(taken),
            Err(error) if error.kind().is_callers_fault() => {
                let cannot = if what == "stored" { "read" } else { "rebuilt" };
                self.reasons
                    .push(format!("the dataset cannot be {cannot}: {}", error.one_line()));
                return Ok(false);
            }
            Err(error) => return Err(error),
        }
        Ok(true)
    }

    fn judge(&mut self) {
        let (Some(stored), Some(rebuilt)) = (&self.stored, &self.rebuilt) else {
            return;
        };
        let tell = |what: &str, is: &Fingerprint, was: &Fingerprint, of: &str| {
            (is != was).then(|| {
                if is.rows == was.rows {
                    format!("{what} rows differ from {of}")
                } else {
                    format!("{what} rows are {}, of {of} {}", is.rows, was.rows)
                }
            })
        };
        let reasons = match &self.manifest {
            Some(manifest) => [
                tell("the stored", stored, &manifest.rows, "the manifest"),
                tell("the rebuilt", rebuilt, &manifest.rows, "the manifest"),
            ],
            None => [tell("the rebuilt", rebuilt, stored, "the stored dataset"), None],
        };
        self.reasons.extend(reasons.into_iter().flatten());
        self.same = self.reasons.is_empty();
    }
}

/// Reads everything and takes its fingerprint.
///
/// # Errors
/// What reading returns.
pub(super) async fn fingerprint(rows: &dyn Readable) -> Result<Fingerprint> {
    let mut stream = rows.read().await?;
    let mut taken = Fingerprinter::new(&stream.schema());
    while let Some(batch) = stream.next().await {
        taken.add(&batch.map_err(Error::from)?)?;
    }
    Ok(taken.finish())
}
