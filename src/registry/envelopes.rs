//! Requests and answers of the registry service in which objects stay bytes.
//!
//! Each struct is wire-identical to the generated message it names, with `bytes` where that one has
//! an object of `feast.core` (both are length-delimited). So an object travels from the client to the
//! store and back without being decoded, and fields this build does not know survive. The tests
//! compare the field numbers with the descriptors.

use bytes::Bytes;
use prost::Message;

use crate::{
    error::{Error, Result},
    model::{
        Object, ObjectKind,
        wire::{self, Put},
    },
    proto::feast::registry::PaginationMetadata,
};

/// Any `Apply…Request` of a single kind, and `UpdateInfraRequest`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct ApplyRequest {
    #[prost(bytes = "bytes", tag = "1")]
    pub(crate) object: Bytes,
    #[prost(string, tag = "2")]
    pub(crate) project: String,
}

/// `ApplyProjectRequest`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct ApplyProjectRequest {
    #[prost(bytes = "bytes", tag = "1")]
    pub(crate) object: Bytes,
}

/// `ApplyFeatureViewRequest`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct ApplyFeatureViewRequest {
    #[prost(bytes = "bytes", optional, tag = "1")]
    pub(crate) feature_view: Option<Bytes>,
    #[prost(bytes = "bytes", optional, tag = "2")]
    pub(crate) on_demand_feature_view: Option<Bytes>,
    #[prost(bytes = "bytes", optional, tag = "3")]
    pub(crate) stream_feature_view: Option<Bytes>,
    #[prost(bytes = "bytes", optional, tag = "6")]
    pub(crate) label_view: Option<Bytes>,
    #[prost(string, tag = "4")]
    pub(crate) project: String,
}

/// `ApplyMaterializationRequest`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct ApplyMaterializationRequest {
    #[prost(bytes = "bytes", tag = "1")]
    pub(crate) feature_view: Bytes,
    #[prost(string, tag = "2")]
    pub(crate) project: String,
    #[prost(message, optional, tag = "3")]
    pub(crate) start_date: Option<prost_types::Timestamp>,
    #[prost(message, optional, tag = "4")]
    pub(crate) end_date: Option<prost_types::Timestamp>,
}

/// Any `List…Response` of a single kind.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct ListResponse {
    #[prost(bytes = "bytes", repeated, tag = "1")]
    pub(crate) objects: Vec<Bytes>,
    #[prost(message, optional, tag = "2")]
    pub(crate) pagination: Option<PaginationMetadata>,
}

/// `AnyFeatureView`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct AnyFeatureView {
    #[prost(bytes = "bytes", optional, tag = "1")]
    pub(crate) feature_view: Option<Bytes>,
    #[prost(bytes = "bytes", optional, tag = "2")]
    pub(crate) on_demand_feature_view: Option<Bytes>,
    #[prost(bytes = "bytes", optional, tag = "3")]
    pub(crate) stream_feature_view: Option<Bytes>,
    #[prost(bytes = "bytes", optional, tag = "4")]
    pub(crate) label_view: Option<Bytes>,
}

impl AnyFeatureView {
    /// The view in the field of its kind.
    pub(crate) fn new(view: &Object) -> Self {
        let bytes = Some(with_project(view));
        match view.kind {
            ObjectKind::OnDemandFeatureView => Self {
                on_demand_feature_view: bytes,
                ..Self::default()
            },
            ObjectKind::StreamFeatureView => Self {
                stream_feature_view: bytes,
                ..Self::default()
            },
            ObjectKind::LabelView => Self {
                label_view: bytes,
                ..Self::default()
            },
            _ => Self {
                feature_view: bytes,
                ..Self::default()
            },
        }
    }
}

/// `GetAnyFeatureViewResponse`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct GetAnyFeatureViewResponse {
    #[prost(message, optional, tag = "1")]
    pub(crate) any_feature_view: Option<AnyFeatureView>,
}

/// `ListAllFeatureViewsResponse`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct ListAllFeatureViewsResponse {
    #[prost(message, repeated, tag = "1")]
    pub(crate) feature_views: Vec<AnyFeatureView>,
    #[prost(message, optional, tag = "2")]
    pub(crate) pagination: Option<PaginationMetadata>,
}

/// `feast.core.Registry`, the lists of it that the `Proto` call answers.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct RegistryProto {
    #[prost(bytes = "bytes", repeated, tag = "1")]
    pub(crate) entities: Vec<Bytes>,
    #[prost(string, tag = "4")]
    pub(crate) version_id: String,
    #[prost(message, optional, tag = "5")]
    pub(crate) last_updated: Option<prost_types::Timestamp>,
    #[prost(bytes = "bytes", repeated, tag = "6")]
    pub(crate) feature_views: Vec<Bytes>,
    #[prost(bytes = "bytes", repeated, tag = "7")]
    pub(crate) feature_services: Vec<Bytes>,
    #[prost(bytes = "bytes", repeated, tag = "8")]
    pub(crate) on_demand_feature_views: Vec<Bytes>,
    #[prost(bytes = "bytes", repeated, tag = "11")]
    pub(crate) saved_datasets: Vec<Bytes>,
    #[prost(bytes = "bytes", repeated, tag = "12")]
    pub(crate) data_sources: Vec<Bytes>,
    #[prost(bytes = "bytes", repeated, tag = "13")]
    pub(crate) validation_references: Vec<Bytes>,
    #[prost(bytes = "bytes", repeated, tag = "14")]
    pub(crate) stream_feature_views: Vec<Bytes>,
    #[prost(bytes = "bytes", repeated, tag = "16")]
    pub(crate) permissions: Vec<Bytes>,
    #[prost(bytes = "bytes", repeated, tag = "17")]
    pub(crate) projects: Vec<Bytes>,
    #[prost(bytes = "bytes", repeated, tag = "19")]
    pub(crate) label_views: Vec<Bytes>,
}

impl RegistryProto {
    /// The list of a kind.
    pub(crate) fn list(&mut self, kind: ObjectKind) -> &mut Vec<Bytes> {
        match kind {
            ObjectKind::Project => &mut self.projects,
            ObjectKind::DataSource => &mut self.data_sources,
            ObjectKind::Entity => &mut self.entities,
            ObjectKind::FeatureView => &mut self.feature_views,
            ObjectKind::OnDemandFeatureView => &mut self.on_demand_feature_views,
            ObjectKind::StreamFeatureView => &mut self.stream_feature_views,
            ObjectKind::LabelView => &mut self.label_views,
            ObjectKind::FeatureService => &mut self.feature_services,
            ObjectKind::SavedDataset => &mut self.saved_datasets,
            ObjectKind::ValidationReference => &mut self.validation_references,
            ObjectKind::Permission => &mut self.permissions,
        }
    }
}

/// The object's bytes with its project filled in.
///
/// Feast's SQL registry leaves the project out of most rows, and clients that match objects by
/// project need it. It is appended: a later field of the same number wins, a later `spec` is merged
/// into the earlier, so nothing has to be decoded for it.
pub(crate) fn with_project(object: &Object) -> Bytes {
    if object.kind == ObjectKind::Project {
        return object.bytes.clone();
    }
    let name = Put::Bytes(object.project.as_bytes());
    wire::append(&object.bytes, object.kind.project_path(), name).into()
}

/// The object as it was sent, under the name it carries.
///
/// # Errors
/// `InvalidArgument` when the bytes are malformed or carry no name.
pub(crate) fn object(kind: ObjectKind, project: &str, bytes: Bytes) -> Result<Object> {
    crate::model::object::dynamic(kind.message_name(), &bytes)
        .map_err(|error| error.context(format!("{} in the request", kind.label())))?;
    let name = wire::text(&bytes, kind.name_path())?;
    if name.is_empty() {
        return Err(Error::invalid(format!(
            "{} in the request has no name",
            kind.label()
        )));
    }
    let name = name.to_owned();
    let project = if kind == ObjectKind::Project {
        name.clone()
    } else {
        project.to_owned()
    };
    Ok(Object {
        kind,
        project,
        name,
        bytes,
    })
}

/// Refuses bytes that are no `feast.core.Infra`.
///
/// # Errors
/// `InvalidArgument`.
pub(crate) fn check_infra(bytes: &[u8]) -> Result<()> {
    crate::model::object::dynamic("feast.core.Infra", bytes)
        .map_err(|error| error.context("infra in the request"))?;
    Ok(())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use prost_reflect::{DescriptorPool, MessageDescriptor};

    use super::*;
    use crate::proto::feast::core;

    fn message(name: &str) -> MessageDescriptor {
        DescriptorPool::decode(crate::proto::DESCRIPTOR_SET)
            .unwrap()
            .get_message_by_name(name)
            .unwrap()
    }

    #[test]
    fn registry_lists_have_the_numbers_of_the_contract() {
        let registry = message("feast.core.Registry");
        for kind in ObjectKind::ALL {
            let mut proto = RegistryProto::default();
            proto.list(kind).push(Bytes::from_static(b""));
            let encoded = proto.encode_to_vec();
            let (number, _) = prost::encoding::decode_key(&mut encoded.as_slice()).unwrap();
            let item = registry.get_field(number).unwrap().kind();
            let item = item.as_message().unwrap();
            assert_eq!(item.full_name(), kind.message_name());
        }
    }

    #[test]
    fn project_is_filled_in_and_the_rest_stays() {
        let entity = core::Entity {
            spec: Some(core::EntitySpecV2 {
                name: "a".into(),
                description: "b".into(),
                ..Default::default()
            }),
            meta: None,
        };
        let object = object(ObjectKind::Entity, "p", entity.encode_to_vec().into()).unwrap();
        let filled = core::Entity::decode(with_project(&object)).unwrap().spec.unwrap();
        assert_eq!(
            (
                filled.name.as_str(),
                filled.project.as_str(),
                filled.description.as_str()
            ),
            ("a", "p", "b")
        );
    }

    #[test]
    fn every_kind_gets_its_project() {
        for kind in ObjectKind::ALL {
            let empty = Object {
                kind,
                project: "p".into(),
                name: "n".into(),
                bytes: Bytes::new(),
            };
            let filled = Object {
                bytes: with_project(&empty),
                ..empty
            };
            let json = filled.to_json().unwrap();
            let holder = json.get("spec").unwrap_or(&json);
            let wanted = (kind != ObjectKind::Project).then_some("p");
            assert_eq!(holder.get("project").and_then(|v| v.as_str()), wanted, "{kind:?}");
        }
    }

    #[test]
    fn an_object_without_name_or_with_broken_bytes_is_refused() {
        let nameless = object(ObjectKind::FeatureView, "p", Bytes::new()).unwrap_err();
        assert!(nameless.message().contains("no name"), "{nameless}");
        let broken = object(ObjectKind::FeatureView, "p", Bytes::from_static(b"\xff\xff")).unwrap_err();
        assert!(broken.message().contains("malformed"), "{broken}");
    }
}
