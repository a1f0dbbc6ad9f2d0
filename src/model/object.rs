//! [`Object`]: one registry object as the bytes it was written with, and its kind.
//!
//! Bytes are never decoded and encoded again on the way through: newer Feast versions add fields that
//! our generated types do not know, and they must survive. Single fields are changed with
//! [`Object::patch`], which keeps unknown fields.

use std::sync::LazyLock;

use bytes::Bytes;
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions, Value};

use super::wire;
use crate::error::{Error, Kind, Result};

static POOL: LazyLock<Option<DescriptorPool>> =
    LazyLock::new(|| DescriptorPool::decode(crate::proto::DESCRIPTOR_SET).ok());

/// The kinds of object a project holds; the order is the order `apply` works in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ObjectKind {
    Project,
    DataSource,
    Entity,
    FeatureView,
    OnDemandFeatureView,
    StreamFeatureView,
    LabelView,
    FeatureService,
    SavedDataset,
    ValidationReference,
    Permission,
}

impl ObjectKind {
    /// Every kind, in apply order.
    pub const ALL: [Self; 11] = [
        Self::Project,
        Self::DataSource,
        Self::Entity,
        Self::FeatureView,
        Self::OnDemandFeatureView,
        Self::StreamFeatureView,
        Self::LabelView,
        Self::FeatureService,
        Self::SavedDataset,
        Self::ValidationReference,
        Self::Permission,
    ];

    /// The four kinds that share one namespace of view names.
    pub const VIEWS: [Self; 4] = [
        Self::FeatureView,
        Self::OnDemandFeatureView,
        Self::StreamFeatureView,
        Self::LabelView,
    ];

    /// The message of `feast.core` that carries it.
    pub fn message_name(self) -> &'static str {
        match self {
            Self::Project => "feast.core.Project",
            Self::DataSource => "feast.core.DataSource",
            Self::Entity => "feast.core.Entity",
            Self::FeatureView => "feast.core.FeatureView",
            Self::OnDemandFeatureView => "feast.core.OnDemandFeatureView",
            Self::StreamFeatureView => "feast.core.StreamFeatureView",
            Self::LabelView => "feast.core.LabelView",
            Self::FeatureService => "feast.core.FeatureService",
            Self::SavedDataset => "feast.core.SavedDataset",
            Self::ValidationReference => "feast.core.ValidationReference",
            Self::Permission => "feast.core.Permission",
        }
    }

    /// What people call it: `feature view`.
    pub fn label(self) -> &'static str {
        match self {
            Self::Project => "project",
            Self::DataSource => "data source",
            Self::Entity => "entity",
            Self::FeatureView => "feature view",
            Self::OnDemandFeatureView => "on demand feature view",
            Self::StreamFeatureView => "stream feature view",
            Self::LabelView => "label view",
            Self::FeatureService => "feature service",
            Self::SavedDataset => "saved dataset",
            Self::ValidationReference => "validation reference",
            Self::Permission => "permission",
        }
    }

    /// Where its name stands in the message, as field numbers.
    pub fn name_path(self) -> &'static [u32] {
        match self {
            Self::DataSource => &[20],
            Self::ValidationReference => &[1],
            _ => &[1, 1],
        }
    }

    /// Where its project stands; a `Project` is its own.
    pub fn project_path(self) -> &'static [u32] {
        match self {
            Self::Project => &[1, 1],
            Self::DataSource => &[21],
            Self::ValidationReference => &[3],
            Self::Entity => &[1, 9],
            _ => &[1, 2],
        }
    }

    /// Where the times of its creation and of its last change stand; validation references have none.
    pub fn time_paths(self) -> Option<[&'static [u32]; 2]> {
        match self {
            Self::DataSource => Some([&[50, 3], &[50, 4]]),
            Self::ValidationReference => None,
            _ => Some([&[2, 1], &[2, 2]]),
        }
    }

    /// Whether it lives in the namespace of view names.
    pub fn is_view(self) -> bool {
        Self::VIEWS.contains(&self)
    }

    /// Feast's not-found error for it, with Feast's text (`feast/errors.py`).
    pub fn not_found(self, name: &str, project: &str) -> Error {
        let (kind, what) = match self {
            Self::Project => {
                return Error::new(Kind::ProjectNotFound, format!("Project {name} does not exist"));
            }
            Self::DataSource => (Kind::DataSourceNotFound, "Data source"),
            Self::Entity => (Kind::EntityNotFound, "Entity"),
            Self::FeatureView | Self::OnDemandFeatureView | Self::StreamFeatureView | Self::LabelView => {
                (Kind::FeatureViewNotFound, "Feature view")
            }
            Self::FeatureService => (Kind::FeatureServiceNotFound, "Feature service"),
            Self::SavedDataset => (Kind::SavedDatasetNotFound, "Saved dataset"),
            Self::ValidationReference => (Kind::ValidationReferenceNotFound, "Validation reference"),
            Self::Permission => (Kind::PermissionNotFound, "Permission"),
        };
        Error::new(kind, format!("{what} {name} does not exist in project {project}"))
    }
}

/// One registry object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    pub kind: ObjectKind,
    /// The project the store keeps it under; the bytes may leave it empty (Feast's SQL registry does).
    pub project: String,
    pub name: String,
    /// The encoded message named by [`ObjectKind::message_name`].
    pub bytes: Bytes,
}

impl Object {
    /// An object from the bytes alone: its name and project as they stand in the message.
    ///
    /// # Errors
    /// [`Kind::InvalidArgument`] when the bytes are malformed on the way there.
    pub fn from_bytes(kind: ObjectKind, bytes: Bytes) -> Result<Self> {
        let name = wire::text(&bytes, kind.name_path())?.to_owned();
        let project = wire::text(&bytes, kind.project_path())?.to_owned();
        Ok(Self {
            kind,
            project,
            name,
            bytes,
        })
    }

    /// The bytes with the object's project written into them.
    ///
    /// # Errors
    /// [`Kind::InvalidArgument`] when the bytes are malformed.
    pub fn bytes_with_project(&self) -> Result<Bytes> {
        let path = self.kind.project_path();
        if wire::text(&self.bytes, path)? == self.project {
            return Ok(self.bytes.clone());
        }
        wire::set(&self.bytes, path, wire::Put::text(&self.project)).map(Bytes::from)
    }

    /// Decodes the bytes as `M`, which must be the generated type of the object's kind.
    ///
    /// # Errors
    /// [`Kind::Internal`] with the object's name when the bytes are not such a message.
    pub fn decode<M: Message + Default>(&self) -> Result<M> {
        M::decode(self.bytes.clone()).map_err(|error| {
            Error::internal(format!(
                "stored {} `{}` of project `{}` is not valid protobuf",
                self.kind.label(),
                self.name,
                self.project
            ))
            .source_error(error)
        })
    }

    /// The bytes as a message that keeps unknown fields.
    ///
    /// # Errors
    /// As [`Object::decode`].
    pub fn dynamic(&self) -> Result<DynamicMessage> {
        dynamic(self.kind.message_name(), &self.bytes)
            .map_err(|error| error.context(format!("{} `{}`", self.kind.label(), self.name)))
    }

    /// Changes the message in place, keeping fields this build does not know.
    ///
    /// # Errors
    /// As [`Object::decode`], and whatever `change` returns.
    pub fn patch(&mut self, change: impl FnOnce(&mut DynamicMessage) -> Result<()>) -> Result<()> {
        let mut message = self.dynamic()?;
        change(&mut message)?;
        self.bytes = message.encode_to_vec().into();
        Ok(())
    }

    /// The object as protobuf's JSON in the shape of Python's `MessageToDict`: lowerCamelCase names,
    /// defaults left out, int64 as text.
    ///
    /// # Errors
    /// As [`Object::decode`].
    pub fn to_json(&self) -> Result<serde_json::Value> {
        message_to_json(&self.dynamic()?)
    }
}

/// Decodes `bytes` as the message called `name`, keeping unknown fields.
///
/// # Errors
/// [`Kind::InvalidArgument`] when the bytes are malformed, [`Kind::Internal`] when `name` is no message.
pub fn dynamic(name: &str, bytes: &[u8]) -> Result<DynamicMessage> {
    DynamicMessage::decode(descriptor(name)?, bytes).map_err(Error::from)
}

/// Parses protobuf's JSON into the message called `name`.
///
/// # Errors
/// [`Kind::InvalidArgument`] when the JSON does not fit the message.
pub fn dynamic_from_json(name: &str, json: &serde_json::Value) -> Result<DynamicMessage> {
    DynamicMessage::deserialize(descriptor(name)?, json)
        .map_err(|error| Error::invalid(format!("JSON does not fit `{name}`: {error}")).source_error(error))
}

/// Protobuf's JSON of a message, in `MessageToDict`'s shape.
///
/// # Errors
/// [`Kind::Internal`] when a value has no JSON form.
pub fn message_to_json(message: &DynamicMessage) -> Result<serde_json::Value> {
    let options = SerializeOptions::new()
        .stringify_64_bit_integers(true)
        .skip_default_fields(true);
    let failed = |error: serde_json::Error| Error::internal(format!("message has no JSON form: {error}"));
    if has_floats(message) {
        // Only in text a float of 32 bits has as few digits as it needs; as a value it has those of 64.
        let mut text = serde_json::Serializer::new(Vec::new());
        message
            .serialize_with_options(&mut text, &options)
            .map_err(failed)?;
        return serde_json::from_slice(&text.into_inner()).map_err(failed);
    }
    message
        .serialize_with_options(serde_json::value::Serializer, &options)
        .map_err(failed)
}

/// Whether a float of 32 bits is set anywhere in a message.
fn has_floats(message: &DynamicMessage) -> bool {
    fn is_float(value: &Value) -> bool {
        match value {
            Value::F32(_) => true,
            Value::Message(message) => has_floats(message),
            Value::List(values) => values.iter().any(is_float),
            Value::Map(values) => values.values().any(is_float),
            _ => false,
        }
    }
    message.fields().any(|(_, value)| is_float(value))
}

fn descriptor(name: &str) -> Result<prost_reflect::MessageDescriptor> {
    POOL.as_ref()
        .and_then(|pool| pool.get_message_by_name(name))
        .ok_or_else(|| Error::internal(format!("no message `{name}` in the descriptor set")))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn floats_have_the_digits_they_need() {
        let json = |name: &str, text: &str| {
            let given: serde_json::Value = serde_json::from_str(text).unwrap();
            let message = dynamic_from_json(name, &given).unwrap();
            (message_to_json(&message).unwrap(), given)
        };
        for rate in ["0.1", "0.30000004", "1e-7", "0.5"] {
            let text = format!(r#"{{"spec": {{"loggingConfig": {{"sampleRate": {rate}}}}}}}"#);
            let (told, given) = json("feast.core.FeatureService", &text);
            assert_eq!(told, given);
        }
        // Within lists and maps too, and those of 64 bits keep theirs.
        let values = r#"{"val": [{"floatVal": 0.1}, {"doubleVal": 0.10000000149011612}, {"floatListVal": {"val": [0.2, 3.4]}}]}"#;
        let (told, given) = json("feast.types.RepeatedValue", values);
        assert_eq!(told, given);
    }

    #[test]
    fn places_of_name_and_project_are_those_of_the_contract() {
        let field = |kind: ObjectKind, path: &[u32]| {
            let top = descriptor(kind.message_name()).unwrap();
            let (last, holders) = path.split_last().unwrap();
            let holder = holders.iter().fold(top, |holder, number| {
                let spec = holder.get_field(*number).unwrap();
                assert_eq!(spec.name(), "spec", "{kind:?}");
                spec.kind().as_message().unwrap().clone()
            });
            holder.get_field(*last).unwrap().name().to_owned()
        };
        for kind in ObjectKind::ALL {
            assert_eq!(field(kind, kind.name_path()), "name", "{kind:?}");
            let project = if kind == ObjectKind::Project {
                "name"
            } else {
                "project"
            };
            assert_eq!(field(kind, kind.project_path()), project, "{kind:?}");
        }
    }
}
