//! [`FeatureView`]: what the serving, joining and materializing parts need to know of a feature view,
//! stream feature view or label view. On-demand views are another type.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use chrono::{DateTime, Utc};

use super::{Object, ObjectKind, ValueType};
use crate::{
    error::Result,
    proto::feast::core::{self, FeatureViewState},
};

/// The join key of views without entities (`feast/feature_view.py`, `DUMMY_*`).
pub const DUMMY_ENTITY_NAME: &str = "__dummy";
/// Its column.
pub const DUMMY_JOIN_KEY: &str = "__dummy_id";

/// A named, typed column of a view.
#[derive(Debug, Clone, PartialEq)]
pub struct Field {
    pub name: String,
    pub value_type: ValueType,
    pub description: String,
    pub tags: BTreeMap<String, String>,
    /// Whether similarity search may use it.
    pub vector_index: bool,
}

impl From<&core::FeatureSpecV2> for Field {
    fn from(spec: &core::FeatureSpecV2) -> Self {
        Self {
            name: spec.name.clone(),
            value_type: ValueType::from_number(spec.value_type),
            description: spec.description.clone(),
            tags: spec.tags.clone(),
            vector_index: spec.vector_index,
        }
    }
}

/// A window of event time that was materialized; both ends belong to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interval {
    pub start: DateTime<Utc>,
    pub end: DateTime<Utc>,
}

/// A view whose values are stored: feature view, stream feature view or label view.
#[derive(Debug, Clone, PartialEq)]
pub struct FeatureView {
    pub kind: ObjectKind,
    pub project: String,
    pub name: String,
    /// Entity names (not join keys); views without entities hold [`DUMMY_ENTITY_NAME`].
    pub entities: Vec<String>,
    /// Join key columns with their declared types, in the order of `entities`.
    pub join_keys: Vec<Field>,
    pub features: Vec<Field>,
    /// How old a value may be in a join; `None` is for ever.
    pub ttl: Option<Duration>,
    /// Where its history lies; push and stream sources have been resolved to their batch source.
    pub batch_source: Option<Arc<core::DataSource>>,
    /// The push or stream source, if any.
    pub stream_source: Option<Arc<core::DataSource>>,
    pub online: bool,
    pub offline: bool,
    pub enabled: bool,
    pub state: FeatureViewState,
    pub tags: BTreeMap<String, String>,
    pub description: String,
    pub owner: String,
    pub intervals: Vec<Interval>,
    /// The active version number; 0 when the view is not versioned.
    pub version: u32,
}

impl FeatureView {
    /// Reads a stored object of one of the three kinds.
    ///
    /// # Errors
    /// `Internal` when the bytes are malformed or the object is of another kind.
    pub fn from_object(object: &Object) -> Result<Self> {
        let mut view = match object.kind {
            ObjectKind::StreamFeatureView => Self::from_stream(object.decode()?),
            ObjectKind::LabelView => Self::from_label(object.decode()?),
            _ => Self::from_plain(object.decode()?),
        };
        view.kind = object.kind;
        view.project.clone_from(&object.project);
        view.name.clone_from(&object.name);
        if view.join_keys.is_empty() && view.is_entityless() {
            view.join_keys = vec![dummy_join_key()];
        }
        Ok(view)
    }

    /// Whether the view is keyed by nothing (its rows sit under the dummy key).
    pub fn is_entityless(&self) -> bool {
        self.entities.iter().all(|entity| entity == DUMMY_ENTITY_NAME)
    }

    /// The feature of that name.
    pub fn feature(&self, name: &str) -> Option<&Field> {
        self.features.iter().find(|field| field.name == name)
    }

    /// The newest materialized event time, where incremental runs go on from.
    pub fn materialized_until(&self) -> Option<DateTime<Utc>> {
        self.intervals.iter().map(|interval| interval.end).max()
    }

    fn from_plain(proto: core::FeatureView) -> Self {
        let spec = proto.spec.unwrap_or_default();
        let meta = proto.meta.unwrap_or_default();
        let (batch_source, stream_source) = split_sources(spec.batch_source, spec.stream_source);
        Self {
            kind: ObjectKind::FeatureView,
            project: spec.project,
            name: spec.name,
            entities: spec.entities,
            join_keys: fields(&spec.entity_columns),
            features: fields(&spec.features),
            ttl: ttl(spec.ttl.as_ref()),
            batch_source,
            stream_source,
            online: spec.online,
            offline: spec.offline,
            enabled: !spec.disabled,
            state: FeatureViewState::try_from(meta.state).unwrap_or_default(),
            tags: spec.tags,
            description: spec.description,
            owner: spec.owner,
            intervals: intervals(&meta.materialization_intervals),
            version: u32::try_from(meta.current_version_number).unwrap_or_default(),
        }
    }

    fn from_stream(proto: core::StreamFeatureView) -> Self {
        let spec = proto.spec.unwrap_or_default();
        let meta = proto.meta.unwrap_or_default();
        let (batch_source, stream_source) = split_sources(spec.batch_source, spec.stream_source);
        let join_keys = fields(&spec.entity_columns);
        // Feast writes the entity columns among the features of a stream view as well.
        let features = fields(&spec.features)
            .into_iter()
            .filter(|field| !join_keys.iter().any(|key| key.name == field.name))
            .collect();
        Self {
            kind: ObjectKind::StreamFeatureView,
            project: spec.project,
            name: spec.name,
            entities: spec.entities,
            join_keys,
            features,
            ttl: ttl(spec.ttl.as_ref()),
            batch_source,
            stream_source,
            online: spec.online,
            offline: false,
            enabled: !spec.disabled,
            state: FeatureViewState::try_from(meta.state).unwrap_or_default(),
            tags: spec.tags,
            description: spec.description,
            owner: spec.owner,
            intervals: intervals(&meta.materialization_intervals),
            version: u32::try_from(meta.current_version_number).unwrap_or_default(),
        }
    }

    fn from_label(proto: core::LabelView) -> Self {
        let spec = proto.spec.unwrap_or_default();
        let (batch_source, stream_source) = split_sources(spec.source, None);
        Self {
            kind: ObjectKind::LabelView,
            project: spec.project,
            name: spec.name,
            entities: spec.entities,
            join_keys: fields(&spec.entity_columns),
            features: fields(&spec.features),
            ttl: ttl(spec.ttl.as_ref()),
            batch_source,
            stream_source,
            online: spec.online,
            offline: false,
            enabled: true,
            state: FeatureViewState::StateUnspecified,
            tags: spec.tags,
            description: spec.description,
            owner: spec.owner,
            intervals: Vec::new(),
            version: 0,
        }
    }
}

fn dummy_join_key() -> Field {
    Field {
        name: DUMMY_JOIN_KEY.to_owned(),
        value_type: ValueType::String,
        description: String::new(),
        tags: BTreeMap::new(),
        vector_index: false,
    }
}

fn fields(specs: &[core::FeatureSpecV2]) -> Vec<Field> {
    specs.iter().map(Field::from).collect()
}

fn ttl(ttl: Option<&prost_types::Duration>) -> Option<Duration> {
    let ttl = Duration::try_from(*ttl?).ok()?;
    (!ttl.is_zero()).then_some(ttl)
}

fn intervals(protos: &[core::MaterializationInterval]) -> Vec<Interval> {
    protos
        .iter()
        .filter_map(|proto| {
            Some(Interval {
                start: timestamp(proto.start_time.as_ref()?)?,
                end: timestamp(proto.end_time.as_ref()?)?,
            })
        })
        .collect()
}

/// A protobuf timestamp as a time; `None` when it is out of range.
pub fn timestamp(proto: &prost_types::Timestamp) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp(proto.seconds, u32::try_from(proto.nanos).ok()?)
}

/// Resolves push and stream sources to the batch source they carry.
fn split_sources(
    batch: Option<core::DataSource>,
    stream: Option<core::DataSource>,
) -> (Option<Arc<core::DataSource>>, Option<Arc<core::DataSource>>) {
    match batch {
        Some(source) if source.batch_source.is_some() => {
            let inner = source.batch_source.clone().map(|inner| Arc::new(*inner));
            (inner, Some(Arc::new(source)))
        }
        batch => {
            let inner = stream.as_ref().and_then(|s| s.batch_source.clone()).map(|b| *b);
            (batch.or(inner).map(Arc::new), stream.map(Arc::new))
        }
    }
}
