//! Proving that a saved dataset can be made again: its entity rows are joined anew to the definitions that
//! there are now, and what comes out must be what the manifest says, and what lies in the dataset's place.
//!
//! Both are read side by side once, and once more where they differ, to show how.
//!
//! Only the entity rows are held in memory, as in every join. A dataset without a manifest, one that Feast's
//! SDK made by itself, is compared with what lies in its place.

use futures::StreamExt as _;
use serde::Serialize;

use super::{
    Dataset, Readable, Rebuilt,
    compare::{Difference, KEPT_ROWS, compare_whole},
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
    let manifest = dataset.manifest().await?;
    let asked = dataset.asked(catalog, manifest.as_ref());
    let definition = Definition::of(catalog, &asked, dataset.spec.full_feature_names)?;
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
    let key = match dataset.key().await {
        Ok(key) => key,
        Err(error) => return verdict.cannot("read", error),
    };
    if key.is_empty() {
        // Rows that cannot be told apart can only be the same or not.
        for (what, rows) in [("read", dataset as &dyn Readable), ("rebuilt", &rebuilt)] {
            match (fingerprint(rows).await, what) {
                (Ok(taken), "read") => verdict.stored = Some(taken),
                (Ok(taken), _) => verdict.rebuilt = Some(taken),
                (Err(error), what) => return verdict.cannot(what, error),
            }
        }
        verdict.judge();
        return Ok(verdict);
    }
    match compare_whole(dataset, &rebuilt, &key, KEPT_ROWS).await {
        Ok((difference, [stored, again])) => {
            verdict.difference = (stored != again).then_some(difference);
            (verdict.stored, verdict.rebuilt) = (Some(stored), Some(again));
            verdict.judge();
            Ok(verdict)
        }
        Err((0, error)) => verdict.cannot("read", error),
        Err((_, error)) => verdict.cannot("rebuilt", error),
    }
}

impl Verdict {
    /// The verdict when one side cannot be had, unless that is no fault of the dataset.
    fn cannot(mut self, be: &str, error: Error) -> Result<Self> {
        if !error.kind().is_callers_fault() {
            return Err(error);
        }
        let why = error.one_line();
        self.reasons.push(format!("the dataset cannot be {be}: {why}"));
        Ok(self)
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
