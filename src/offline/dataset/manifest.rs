//! [`Manifest`]: what a saved dataset was made of and what came out, so that it can be proved later that
//! the same comes out again.
//!
//! It lies in the dataset's tags (`thali.manifest.*`). Feast's SDK reads a dataset into an object of its own
//! and writes that back: tags survive this, new fields of the message would not; and a file beside the rows
//! would get lost when only the registry moves. The same is noted with the rows themselves (a Parquet file's
//! metadata, a table's comment), where it counts when there are no such tags: of a dataset that the SDK has an
//! offline server save, which is registered by the SDK.

use std::collections::{BTreeMap, BTreeSet};

use arrow::{datatypes::Schema, record_batch::RecordBatch};
use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;
use serde_json::{Value as Json, json};
use sha2::{Digest, Sha256};

use super::cells::{Encoder, halves, sized};
use crate::{
    error::{Error, Result},
    model::{FeatureRef, Object, ObjectKind, on_demand::OnDemandInput},
    offline::retrieve::Wanted,
    registry::{Catalog, View},
};

const DEFINITION: &str = "thali.manifest.definition";
const OBJECTS: &str = "thali.manifest.objects";
const KNOWN_AS_OF: &str = "thali.manifest.known-as-of";
const ROWS: &str = "thali.manifest.rows";
const ROW_HASH: &str = "thali.manifest.row-hash";

/// What does not change the rows of a dataset: who made an object, when, and what is said about it.
const TELLS_NOTHING: [&str; 7] = [
    "meta",
    "tags",
    "description",
    "owner",
    "project",
    "online",
    "loggingConfig",
];

/// How many rows there are and what they are, in whatever order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fingerprint {
    pub rows: u64,
    pub row_hash: String,
}

/// A fingerprint being taken. Each row's SHA-256 is added to a sum, so that the order of rows does not
/// matter and rows that are there twice count twice.
#[derive(Debug)]
pub(crate) struct Fingerprinter {
    /// By name, which makes the order of columns matter as little.
    columns: Vec<String>,
    prefix: Vec<u8>,
    rows: u64,
    sum: (u128, u128),
}

impl Fingerprinter {
    pub(crate) fn new(schema: &Schema) -> Self {
        let mut columns: Vec<_> = schema.fields().iter().map(|field| field.name().clone()).collect();
        columns.sort();
        let mut prefix = Vec::new();
        for column in &columns {
            sized(&mut prefix, b'#', column.as_bytes());
        }
        Self {
            columns,
            prefix: Sha256::digest(prefix).to_vec(),
            rows: 0,
            sum: (0, 0),
        }
    }

    pub(crate) fn add(&mut self, batch: &RecordBatch) -> Result<()> {
        let cells = Encoder::new(batch, self.columns.iter().map(String::as_str))?;
        let mut bytes = self.prefix.clone();
        for row in 0..batch.num_rows() {
            bytes.truncate(self.prefix.len());
            cells.write(row, &mut bytes)?;
            let (high, low) = halves(&Sha256::digest(&bytes));
            self.sum = (self.sum.0.wrapping_add(high), self.sum.1.wrapping_add(low));
        }
        self.rows += batch.num_rows() as u64;
        Ok(())
    }

    pub(crate) fn finish(&self) -> Fingerprint {
        let mut all = Sha256::new();
        all.update(&self.prefix);
        all.update(self.rows.to_le_bytes());
        all.update(self.sum.0.to_le_bytes());
        all.update(self.sum.1.to_le_bytes());
        Fingerprint {
            rows: self.rows,
            row_hash: hex::encode(all.finalize()),
        }
    }
}

/// What decides what rows come out: views, their sources and entities, and the service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Definition {
    pub hash: String,
    /// The hash of each object by its kind and name.
    pub objects: BTreeMap<String, String>,
}

impl Definition {
    /// As the catalog has it now. Objects that are not there are left out.
    pub(crate) fn of(catalog: &Catalog, wanted: &Wanted, full_feature_names: bool) -> Result<Self> {
        let mut objects = BTreeMap::new();
        let mut add = |object: &Object| {
            let name = format!("{} {}", object.kind.label(), object.name);
            objects.insert(name, digest(&canonical(object.to_json()?)));
            Ok::<_, Error>(())
        };
        let mut pending: Vec<(String, Option<u32>)> = Vec::new();
        let asked = match wanted {
            Wanted::Service(name) => {
                if let Some(object) = catalog.object(ObjectKind::FeatureService, name) {
                    add(object)?;
                    let spec = catalog.service(name)?.spec.as_ref();
                    let projections = spec.map(|spec| spec.features.as_slice()).unwrap_or_default();
                    pending.extend(projections.iter().map(|projection| {
                        let version = projection.version_tag.and_then(|tag| u32::try_from(tag).ok());
                        (projection.feature_view_name.clone(), version)
                    }));
                }
                json!({"service": name})
            }
            Wanted::Features { references, aliases } => {
                for reference in references {
                    let FeatureRef { view, version, .. } = FeatureRef::parse(reference)?;
                    let alias = aliases.iter().find(|alias| alias.alias == view);
                    pending.push((alias.map_or(view, |alias| alias.view.clone()), version));
                }
                json!({"features": references})
            }
        };
        let mut seen = BTreeSet::new();
        while let Some((name, version)) = pending.pop() {
            if !seen.insert((name.clone(), version)) {
                continue;
            }
            let kinds = ObjectKind::VIEWS.into_iter();
            let Some(object) = kinds.filter_map(|kind| catalog.object(kind, &name)).next() else {
                continue;
            };
            let pinned = catalog
                .state()
                .versions
                .iter()
                .find(|stored| stored.view == name && Some(stored.number) == version);
            match pinned {
                Some(stored) => add(&Object {
                    name: format!("{name}@v{}", stored.number),
                    bytes: stored.bytes.clone(),
                    ..Object::clone(object)
                })?,
                None => add(object)?,
            }
            match catalog.view(&name) {
                Some(View::Stored(view)) => {
                    for entity in &view.entities {
                        if let Some(object) = catalog.object(ObjectKind::Entity, entity) {
                            add(object)?;
                        }
                    }
                    let source = view.batch_source.as_ref();
                    let source =
                        source.and_then(|source| catalog.object(ObjectKind::DataSource, &source.name));
                    if let Some(object) = source {
                        add(object)?;
                    }
                }
                Some(View::OnDemand(view)) => {
                    pending.extend(view.inputs.iter().filter_map(|input| match input {
                        OnDemandInput::View { view, .. } => Some((view.clone(), None)),
                        OnDemandInput::Request { .. } => None,
                    }));
                }
                None => {}
            }
        }
        let whole = json!({"asked": asked, "full_feature_names": full_feature_names, "objects": objects});
        Ok(Self {
            hash: digest(&canonical(whole)),
            objects,
        })
    }

    /// Whether it is that of a feature service, not of a list of features.
    pub(crate) fn is_of_service(&self) -> bool {
        let service = format!("{} ", ObjectKind::FeatureService.label());
        self.objects.keys().any(|name| name.starts_with(&service))
    }

    /// What is not as in another definition, in words.
    pub(crate) fn differences(&self, now: &Self) -> Vec<String> {
        let names: BTreeSet<_> = self.objects.keys().chain(now.objects.keys()).collect();
        let mut words = Vec::new();
        for name in names {
            match (self.objects.get(name), now.objects.get(name)) {
                (Some(before), Some(after)) if before != after => words.push(format!("{name} has changed")),
                (Some(_), None) => words.push(format!("{name} is gone")),
                (None, Some(_)) => words.push(format!("{name} is new")),
                _ => {}
            }
        }
        if words.is_empty() && self.hash != now.hash {
            words.push("the list of features has changed".to_owned());
        }
        words
    }
}

/// JSON with its keys in order and without what tells nothing. A view's native expressions are a tag, and
/// they decide its values.
fn canonical(value: Json) -> Json {
    match value {
        Json::Object(fields) => {
            let expressions = fields
                .get("tags")
                .and_then(|tags| tags.get(crate::model::on_demand::EXPRESSIONS_TAG))
                .cloned();
            let kept = fields
                .into_iter()
                .filter(|(name, _)| !TELLS_NOTHING.contains(&name.as_str()));
            let mut sorted: BTreeMap<String, Json> =
                kept.map(|(name, value)| (name, canonical(value))).collect();
            if let Some(expressions) = expressions {
                sorted.insert("expressions".to_owned(), expressions);
            }
            Json::Object(sorted.into_iter().collect())
        }
        Json::Array(items) => Json::Array(items.into_iter().map(canonical).collect()),
        other => other,
    }
}

fn digest(value: &Json) -> String {
    hex::encode(Sha256::digest(value.to_string()))
}

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Manifest {
    pub definition: Definition,
    /// When the rows were read: what came to the sources later had no part in them.
    pub known_as_of: DateTime<Utc>,
    #[serde(flatten)]
    pub rows: Fingerprint,
}

impl Manifest {
    /// The tags that say it.
    pub(crate) fn tags(&self) -> BTreeMap<String, String> {
        let known = self.known_as_of.to_rfc3339_opts(SecondsFormat::Micros, true);
        let tags = [
            (DEFINITION, self.definition.hash.clone()),
            (OBJECTS, json!(self.definition.objects).to_string()),
            (KNOWN_AS_OF, known),
            (ROWS, self.rows.rows.to_string()),
            (ROW_HASH, self.rows.row_hash.clone()),
        ];
        tags.map(|(name, value)| (name.to_owned(), value)).into()
    }

    /// The note that says it.
    pub(crate) fn note(&self) -> String {
        json!(self.tags()).to_string()
    }

    /// The manifest in a note, if it is one.
    pub(crate) fn of_note(note: &str) -> Result<Option<Self>> {
        match serde_json::from_str(note) {
            Ok(tags) => Self::of_tags(&tags),
            Err(_) => Ok(None),
        }
    }

    /// The manifest among tags, if there is one.
    pub(crate) fn of_tags(tags: &BTreeMap<String, String>) -> Result<Option<Self>> {
        let Some(hash) = tags.get(DEFINITION) else {
            return Ok(None);
        };
        let tag = |name: &str| {
            let missing = || Error::invalid(format!("the dataset's manifest has no tag `{name}`"));
            tags.get(name).ok_or_else(missing)
        };
        let malformed = |name: &str| Error::invalid(format!("the tag `{name}` of the dataset is malformed"));
        let objects = serde_json::from_str(tag(OBJECTS)?).map_err(|_| malformed(OBJECTS))?;
        let known = DateTime::parse_from_rfc3339(tag(KNOWN_AS_OF)?).map_err(|_| malformed(KNOWN_AS_OF))?;
        Ok(Some(Self {
            definition: Definition {
                hash: hash.clone(),
                objects,
            },
            known_as_of: known.to_utc(),
            rows: Fingerprint {
                rows: tag(ROWS)?.parse().map_err(|_| malformed(ROWS))?,
                row_hash: tag(ROW_HASH)?.clone(),
            },
        }))
    }
}
