//! History: who changed what of a project and when. Every store writes an entry in the same transaction
//! as the change it tells of, and gives entries back; what to do with them is not decided here.

use std::collections::HashSet;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use indexmap::IndexMap;
use prost::Message;

use super::{Change, ProjectState, ViewVersion, proto_time, version_of_record, version_record};
use crate::{
    error::{Error, Result},
    model::{ObjectKind, feature_view::timestamp},
    proto::thali::registry as wire,
};

/// Who changes a project, and how they would call what they do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Author {
    /// A user's name, or `anonymous`.
    pub name: String,
    /// Such as `apply` or `rollback to 7`.
    pub action: String,
}

impl Author {
    pub fn new(name: impl Into<String>, action: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            action: action.into(),
        }
    }

    /// Somebody of whom nothing is known.
    pub fn anonymous(action: impl Into<String>) -> Self {
        Self::new("anonymous", action)
    }
}

/// One object before and after.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectChange {
    pub kind: ObjectKind,
    pub name: String,
    /// `None` when it did not exist.
    pub before: Option<Bytes>,
    pub after: Option<Bytes>,
}

/// Everything one transaction changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryEntry {
    /// Counts up from 1 within the project; numbers of changes nobody is named for are left out.
    pub number: u64,
    pub time: DateTime<Utc>,
    pub author: Author,
    pub objects: Vec<ObjectChange>,
    /// What else went, when a view or a whole project was deleted.
    pub removed_versions: Vec<ViewVersion>,
    pub removed_infra: Option<Bytes>,
    pub removed_metadata: Vec<(String, String)>,
}

impl HistoryEntry {
    /// What `changes` do to a project in that state; `None` when they touch no object.
    pub fn of(
        before: &ProjectState,
        changes: &[Change],
        author: &Author,
        number: u64,
        time: DateTime<Utc>,
    ) -> Option<Self> {
        let mut entry = Self {
            number,
            time,
            author: author.clone(),
            objects: Vec::new(),
            removed_versions: Vec::new(),
            removed_infra: None,
            removed_metadata: Vec::new(),
        };
        let mut objects: IndexMap<(ObjectKind, &str), Option<Bytes>> = IndexMap::new();
        let mut gone = false;
        let mut gone_views = HashSet::new();
        for change in changes {
            match change {
                Change::Put(object) => {
                    objects.insert((object.kind, &object.name), Some(object.bytes.clone()));
                }
                Change::Delete(kind, name) => {
                    objects.insert((*kind, name), None);
                    if kind.is_view() {
                        gone_views.insert(name.as_str());
                    }
                }
                Change::DeleteProject => {
                    let all = before.objects.iter();
                    objects = all
                        .map(|object| ((object.kind, object.name.as_str()), None))
                        .collect();
                    entry.removed_infra.clone_from(&before.infra);
                    entry.removed_metadata.clone_from(&before.metadata);
                    gone = true;
                }
                _ => {}
            }
        }
        let versions = before.versions.iter();
        let removed = versions.filter(|version| gone || gone_views.contains(version.view.as_str()));
        entry.removed_versions = removed.map(|version| (**version).clone()).collect();
        let changed = objects.into_iter().map(|((kind, name), after)| ObjectChange {
            kind,
            name: name.to_owned(),
            before: before.object(kind, name).map(|object| object.bytes.clone()),
            after,
        });
        entry.objects = changed.filter(|object| object.before != object.after).collect();
        (!entry.objects.is_empty()).then_some(entry)
    }

    /// The entry as stores keep it.
    pub fn encode(&self, project: &str) -> Bytes {
        self.to_message(project).encode_to_vec().into()
    }

    /// The entry as a message.
    pub(crate) fn to_message(&self, project: &str) -> wire::HistoryEntry {
        let objects = self.objects.iter().map(|change| wire::ObjectChange {
            kind: kind_number(change.kind).into(),
            name: change.name.clone(),
            before: change.before.clone(),
            after: change.after.clone(),
        });
        let versions = self.removed_versions.iter();
        wire::HistoryEntry {
            number: self.number,
            time: Some(proto_time(self.time)),
            author: self.author.name.clone(),
            action: self.author.action.clone(),
            objects: objects.collect(),
            removed_versions: versions.map(|version| version_record(project, version)).collect(),
            removed_infra: self.removed_infra.clone(),
            removed_metadata: self.removed_metadata.iter().cloned().collect(),
        }
    }

    /// Reads what [`HistoryEntry::encode`] wrote.
    ///
    /// # Errors
    /// `Internal` when the bytes are no entry, or one of a newer thali.
    pub fn decode(bytes: Bytes) -> Result<Self> {
        let message = wire::HistoryEntry::decode(bytes).map_err(|error| broken().source_error(error))?;
        Self::from_message(message)
    }

    /// What [`HistoryEntry::to_message`] made.
    ///
    /// # Errors
    /// `Internal` when it is of a newer thali.
    pub(crate) fn from_message(message: wire::HistoryEntry) -> Result<Self> {
        let object = |change: wire::ObjectChange| {
            Some(ObjectChange {
                kind: kind_of_number(wire::ObjectKind::try_from(change.kind).ok()?)?,
                name: change.name,
                before: change.before,
                after: change.after,
            })
        };
        let objects = message.objects.into_iter().map(object).collect::<Option<_>>();
        Ok(Self {
            number: message.number,
            time: message.time.as_ref().and_then(timestamp).unwrap_or_default(),
            author: Author::new(message.author, message.action),
            objects: objects.ok_or_else(broken)?,
            removed_versions: message.removed_versions.iter().map(version_of_record).collect(),
            removed_infra: message.removed_infra,
            removed_metadata: message.removed_metadata.into_iter().collect(),
        })
    }
}

fn broken() -> Error {
    Error::internal("an entry of the registry's history cannot be read")
}

/// How many entries to list, from which on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HistoryPage {
    /// Only entries with a smaller number; `None` starts at the newest.
    pub before: Option<u64>,
    pub limit: usize,
}

/// The kind's number in our own messages.
pub fn kind_number(kind: ObjectKind) -> wire::ObjectKind {
    match kind {
        ObjectKind::Project => wire::ObjectKind::Project,
        ObjectKind::DataSource => wire::ObjectKind::DataSource,
        ObjectKind::Entity => wire::ObjectKind::Entity,
        ObjectKind::FeatureView => wire::ObjectKind::FeatureView,
        ObjectKind::OnDemandFeatureView => wire::ObjectKind::OnDemandFeatureView,
        ObjectKind::StreamFeatureView => wire::ObjectKind::StreamFeatureView,
        ObjectKind::LabelView => wire::ObjectKind::LabelView,
        ObjectKind::FeatureService => wire::ObjectKind::FeatureService,
        ObjectKind::SavedDataset => wire::ObjectKind::SavedDataset,
        ObjectKind::ValidationReference => wire::ObjectKind::ValidationReference,
        ObjectKind::Permission => wire::ObjectKind::Permission,
    }
}

/// The kind of a number in our own messages.
pub fn kind_of_number(number: wire::ObjectKind) -> Option<ObjectKind> {
    ObjectKind::ALL
        .into_iter()
        .find(|kind| kind_number(*kind) == number)
}
