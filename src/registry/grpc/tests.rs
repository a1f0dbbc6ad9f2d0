//! The service as clients see it: the generated client calls it in process.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use prost_reflect::DescriptorPool;
use tonic::{Code, Request};

use super::{Call, RegistryService};
use crate::{
    model::{Object, ObjectKind},
    proto::feast::{
        core,
        registry::{self as api, registry_server_client::RegistryServerClient},
    },
    registry::{
        changes::Changes,
        samples::{self, PROJECT, Tables},
        store::Change,
    },
};

type Client = RegistryServerClient<RegistryService>;

fn start() -> (Client, Changes, Arc<Tables>) {
    let (changes, tables) = samples::registry();
    (
        RegistryServerClient::new(RegistryService {
            server: Arc::new(super::Server {
                changes: changes.clone(),
                context: None,
            }),
        }),
        changes,
        tables,
    )
}

fn list() -> api::ListEntitiesRequest {
    api::ListEntitiesRequest {
        project: PROJECT.into(),
        ..Default::default()
    }
}

#[test]
fn every_method_of_the_contract_is_answered() {
    let pool = DescriptorPool::decode(super::DESCRIPTOR_SET).unwrap();
    let service = pool.get_service_by_name("feast.registry.RegistryServer").unwrap();
    for method in service.methods() {
        assert!(Call::find(method.name()).is_some(), "{}", method.name());
    }
    for unknown in [
        "",
        "ApplyLabelView",
        "DeleteStreamFeatureView",
        "GetEntities",
        "ListEntity",
    ] {
        assert_eq!(Call::find(unknown), None, "{unknown}");
    }
}

/// The server decodes requests of many kinds as one message; that holds only while they are laid out alike.
#[test]
fn requests_of_all_kinds_are_laid_out_alike() {
    let pool = DescriptorPool::decode(super::DESCRIPTOR_SET).unwrap();
    let fields = |name: &str| {
        let message = pool
            .get_message_by_name(&format!("feast.registry.{name}"))
            .unwrap();
        let field = |field: prost_reflect::FieldDescriptor| (field.number(), field.name().to_owned());
        message.fields().map(field).collect::<Vec<_>>()
    };
    let is_part = |part: &str, whole: &str| {
        let whole = fields(whole);
        for field in fields(part) {
            assert!(whole.contains(&field), "{part}: {field:?}");
        }
    };
    for kind in ObjectKind::ALL {
        let (one, many) = (super::singular(kind), super::plural(kind));
        if kind != ObjectKind::Project {
            is_part(&format!("Get{one}Request"), "GetEntityRequest");
        }
        if !matches!(kind, ObjectKind::Project | ObjectKind::FeatureService) {
            is_part(&format!("List{many}Request"), "ListSavedDatasetsRequest");
        }
        let answer = fields(&format!("List{many}Response"));
        assert_eq!(
            (answer[0].0, answer[1].clone()),
            (1, (2, "pagination".to_owned())),
            "{kind:?}"
        );
        if !kind.is_view() && kind != ObjectKind::Project {
            is_part(&format!("Delete{one}Request"), "DeleteEntityRequest");
            let apply = fields(&format!("Apply{one}Request"));
            assert_eq!(
                (apply[0].0, apply[1].clone()),
                (1, (2, "project".to_owned())),
                "{kind:?}"
            );
        }
    }
    is_part("DeleteFeatureViewRequest", "DeleteEntityRequest");
    is_part("GetAnyFeatureViewRequest", "GetEntityRequest");
    assert_eq!(
        fields("UpdateInfraRequest")[..2],
        [(1, "infra".to_owned()), (2, "project".to_owned())]
    );
    assert_eq!(fields("AnyFeatureView").len(), 4);
}

#[tokio::test]
async fn get_fills_the_project_and_misses_with_feasts_error() {
    let (mut client, ..) = start();
    let request = |name: &str| api::GetEntityRequest {
        name: name.into(),
        project: PROJECT.into(),
        allow_cache: true,
    };
    let entity = client
        .get_entity(request("driver"))
        .await
        .unwrap()
        .into_inner()
        .spec
        .unwrap();
    assert_eq!(
        (entity.project.as_str(), entity.join_key.as_str()),
        (PROJECT, "driver_id")
    );

    let status = client.get_entity(request("rider")).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    let detail: serde_json::Value = serde_json::from_str(status.message()).unwrap();
    assert_eq!(detail["module"], "feast.errors");
    assert_eq!(detail["class"], "EntityNotFoundException");
    assert_eq!(detail["message"], "Entity rider does not exist in project shop");

    let project = api::GetProjectRequest {
        name: "nowhere".into(),
        allow_cache: true,
    };
    let status = client.get_project(project).await.unwrap_err();
    assert!(
        status.message().contains("ProjectObjectNotFoundException"),
        "{status}"
    );
}

#[tokio::test]
async fn lists_filter_sort_and_page() {
    let (mut client, ..) = start();
    let entities = client.list_entities(list()).await.unwrap().into_inner();
    assert_eq!(entities.entities.len(), 1);
    assert_eq!(entities.pagination.unwrap().total_count, 1);
    let tags = [("team".to_owned(), "none".to_owned())].into();
    let none = client
        .list_entities(api::ListEntitiesRequest { tags, ..list() })
        .await
        .unwrap()
        .into_inner();
    assert!(none.entities.is_empty());
    let sources = client
        .list_data_sources(api::ListDataSourcesRequest {
            project: PROJECT.into(),
            sorting: Some(api::SortingParams {
                sort_by: "name".into(),
                sort_order: "desc".into(),
            }),
            pagination: Some(api::PaginationParams { page: 1, limit: 1 }),
            ..Default::default()
        })
        .await
        .unwrap()
        .into_inner();
    assert_eq!(sources.data_sources[0].name, "trips_push");
    assert_eq!(sources.data_sources[0].project, PROJECT);
    assert!(sources.pagination.unwrap().has_next);
    let unknown = api::ListEntitiesRequest {
        project: "nowhere".into(),
        ..Default::default()
    };
    assert!(
        client
            .list_entities(unknown)
            .await
            .unwrap()
            .into_inner()
            .entities
            .is_empty()
    );
}

#[tokio::test]
async fn views_of_all_kinds_and_features() {
    let (mut client, ..) = start();
    let all = api::ListAllFeatureViewsRequest {
        project: PROJECT.into(),
        ..Default::default()
    };
    let all = client.list_all_feature_views(all).await.unwrap().into_inner();
    assert_eq!(all.feature_views.len(), 2, "label views are left out");
    let any = api::GetAnyFeatureViewRequest {
        name: "verdicts".into(),
        project: PROJECT.into(),
        allow_cache: true,
    };
    let any = client
        .get_any_feature_view(any)
        .await
        .unwrap()
        .into_inner()
        .any_feature_view
        .unwrap();
    assert!(matches!(
        any.any_feature_view,
        Some(api::any_feature_view::AnyFeatureView::LabelView(_))
    ));
    let features = api::ListFeaturesRequest {
        project: PROJECT.into(),
        kind: "label".into(),
        ..Default::default()
    };
    let features = client
        .list_features(features)
        .await
        .unwrap()
        .into_inner()
        .features;
    assert_eq!(
        (features[0].name.as_str(), features[0].r#type.as_str()),
        ("good", "Bool")
    );
    // A name of another kind of view is not found by the getter of one kind.
    let wrong = api::GetFeatureViewRequest {
        name: "twice".into(),
        project: PROJECT.into(),
        allow_cache: false,
    };
    assert_eq!(
        client.get_feature_view(wrong).await.unwrap_err().code(),
        Code::NotFound
    );
}

#[tokio::test]
async fn applied_views_are_visible_at_once_and_provisioned() {
    let (mut client, _, tables) = start();
    let mut view = samples::feature_view();
    view.spec.as_mut().unwrap().name = "more".into();
    let request = api::ApplyFeatureViewRequest {
        project: PROJECT.into(),
        commit: false,
        base_feature_view: Some(api::apply_feature_view_request::BaseFeatureView::FeatureView(
            view,
        )),
    };
    client.apply_feature_view(request).await.unwrap();
    assert_eq!(tables.log(), ["keep shop.more"]);
    let get = api::GetFeatureViewRequest {
        name: "more".into(),
        project: PROJECT.into(),
        allow_cache: true,
    };
    client.get_feature_view(get.clone()).await.unwrap();
    let delete = api::DeleteFeatureViewRequest {
        name: "more".into(),
        project: PROJECT.into(),
        commit: true,
    };
    client.delete_feature_view(delete.clone()).await.unwrap();
    assert_eq!(
        tables.log(),
        ["keep shop.more", "drop shop.more", "drop shop.more_v0"]
    );
    assert_eq!(
        client.get_feature_view(get).await.unwrap_err().code(),
        Code::NotFound
    );
    assert_eq!(
        client.delete_feature_view(delete).await.unwrap_err().code(),
        Code::NotFound
    );
}

#[tokio::test]
async fn requests_that_make_no_sense_change_nothing() {
    let (mut client, changes, tables) = start();
    let before = changes.registry.fresh_catalog(PROJECT).await.unwrap().generation;
    let empty = api::ApplyFeatureViewRequest {
        project: PROJECT.into(),
        ..Default::default()
    };
    assert_eq!(
        client.apply_feature_view(empty).await.unwrap_err().code(),
        Code::InvalidArgument
    );
    let nameless = api::ApplyEntityRequest {
        project: PROJECT.into(),
        ..Default::default()
    };
    assert_eq!(
        client.apply_entity(nameless).await.unwrap_err().code(),
        Code::InvalidArgument
    );
    let entity = core::Entity {
        spec: Some(core::EntitySpecV2 {
            name: "e".into(),
            ..Default::default()
        }),
        meta: None,
    };
    let homeless = api::ApplyEntityRequest {
        entity: Some(entity),
        ..Default::default()
    };
    assert_eq!(
        client.apply_entity(homeless).await.unwrap_err().code(),
        Code::InvalidArgument
    );
    let times = api::ApplyMaterializationRequest {
        feature_view: Some(samples::feature_view()),
        project: PROJECT.into(),
        ..Default::default()
    };
    assert_eq!(
        client.apply_materialization(times).await.unwrap_err().code(),
        Code::InvalidArgument
    );
    assert_eq!(
        changes.registry.fresh_catalog(PROJECT).await.unwrap().generation,
        before
    );
    assert!(tables.log().is_empty());
}

#[tokio::test]
async fn unknown_fields_of_newer_clients_survive() {
    let (mut client, changes, _) = start();
    let mut bytes = core::DataSource {
        name: "new".into(),
        ..Default::default()
    }
    .encode_to_vec();
    // Field 29 is unknown here: a message with one text.
    bytes.extend_from_slice(&[0xea, 0x01, 0x03, 0x0a, 0x01, b'x']);
    let source = core::DataSource::decode(bytes.as_slice()).unwrap();
    assert_ne!(source.encode_to_vec(), bytes, "prost drops it");
    let object = Object {
        kind: ObjectKind::DataSource,
        project: PROJECT.into(),
        name: "new".into(),
        bytes: bytes.into(),
    };
    let put = |_: &_| Ok(vec![Change::Put(object.clone())]);
    changes
        .registry
        .update(PROJECT, None, &mut { put })
        .await
        .unwrap();
    let server = super::Server {
        changes,
        context: None,
    };
    let get = api::GetDataSourceRequest {
        name: "new".into(),
        project: PROJECT.into(),
        allow_cache: true,
    };
    let answer = server
        .answer(Call::Get(ObjectKind::DataSource), get.encode_to_vec().into())
        .await
        .unwrap();
    assert!(
        answer.starts_with(&object.bytes),
        "stored bytes come back as they are"
    );
    let get = api::GetDataSourceRequest {
        name: "new".into(),
        project: PROJECT.into(),
        allow_cache: true,
    };
    assert_eq!(
        client.get_data_source(get).await.unwrap().into_inner().project,
        PROJECT
    );
}

#[tokio::test]
async fn the_whole_registry_with_projects_filled_in() {
    let (mut client, ..) = start();
    let proto = client.proto(()).await.unwrap().into_inner();
    assert_eq!(proto.projects.len(), 1);
    assert_eq!(proto.feature_views[0].spec.as_ref().unwrap().project, PROJECT);
    assert_eq!(proto.data_sources[1].project, PROJECT);
    assert_eq!(
        (
            proto.label_views.len(),
            proto.saved_datasets.len(),
            proto.permissions.len()
        ),
        (1, 1, 1)
    );
    assert!(proto.infra.is_none());
    let metadata = api::ListProjectMetadataRequest {
        project: PROJECT.into(),
        allow_cache: true,
    };
    let metadata = client
        .list_project_metadata(metadata)
        .await
        .unwrap()
        .into_inner()
        .project_metadata;
    assert_eq!(metadata[0].project_uuid, "a-uuid");
}

#[tokio::test]
async fn infra_goes_in_and_comes_out() {
    let (mut client, ..) = start();
    let get = api::GetInfraRequest {
        project: PROJECT.into(),
        allow_cache: false,
    };
    assert!(
        client
            .get_infra(get.clone())
            .await
            .unwrap()
            .into_inner()
            .infra_objects
            .is_empty()
    );
    let object = core::InfraObject {
        infra_object_class_type: "some.Class".into(),
        infra_object: None,
    };
    let infra = Some(core::Infra {
        infra_objects: vec![object],
    });
    client
        .update_infra(api::UpdateInfraRequest {
            infra,
            project: PROJECT.into(),
            commit: true,
        })
        .await
        .unwrap();
    assert_eq!(
        client
            .get_infra(get)
            .await
            .unwrap()
            .into_inner()
            .infra_objects
            .len(),
        1
    );
}

#[tokio::test]
async fn lineage_calls() {
    let (mut client, ..) = start();
    let request = api::GetRegistryLineageRequest {
        project: PROJECT.into(),
        filter_object_type: "featureService".into(),
        filter_object_name: "model".into(),
        pagination: Some(api::PaginationParams { page: 1, limit: 2 }),
        ..Default::default()
    };
    let lineage = client.get_registry_lineage(request).await.unwrap().into_inner();
    assert_eq!(lineage.relationships.len(), 2);
    assert_eq!(lineage.relationships_pagination.unwrap().total_count, 3);
    let request = api::GetObjectRelationshipsRequest {
        project: PROJECT.into(),
        object_type: "entity".into(),
        object_name: "driver".into(),
        ..Default::default()
    };
    let relations = client
        .get_object_relationships(request.clone())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(relations.relationships.len(), 2);
    let wrong = api::GetObjectRelationshipsRequest {
        object_type: "table".into(),
        ..request
    };
    assert_eq!(
        client.get_object_relationships(wrong).await.unwrap_err().code(),
        Code::InvalidArgument
    );
}

#[tokio::test]
async fn protected_projects_are_hidden_from_the_list() {
    let (mut client, ..) = start();
    let count = |answer: tonic::Response<api::ListProjectsResponse>| answer.into_inner().projects.len();
    assert_eq!(
        count(
            client
                .list_projects(api::ListProjectsRequest::default())
                .await
                .unwrap()
        ),
        1
    );
    let tags = [("feast.dev/protected-project".to_owned(), "true".to_owned())].into();
    let spec = Some(core::ProjectSpec {
        name: "vault".into(),
        tags,
        ..Default::default()
    });
    let project = Some(core::Project { spec, meta: None });
    client
        .apply_project(api::ApplyProjectRequest {
            project,
            commit: true,
        })
        .await
        .unwrap();
    assert_eq!(
        count(
            client
                .list_projects(api::ListProjectsRequest::default())
                .await
                .unwrap()
        ),
        1
    );
    let get = api::GetProjectRequest {
        name: "vault".into(),
        allow_cache: false,
    };
    client.get_project(get).await.unwrap();
    client
        .delete_project(api::DeleteProjectRequest {
            name: "vault".into(),
            commit: true,
        })
        .await
        .unwrap();
}

#[tokio::test]
async fn malformed_requests_are_refused() {
    let (changes, _) = samples::registry();
    let server = super::Server {
        changes,
        context: None,
    };
    let broken = Bytes::from_static(b"\x0a\xff\xff\xff\xff");
    for call in [
        Call::Get(ObjectKind::Entity),
        Call::List(ObjectKind::Project),
        Call::ApplyView,
        Call::DeleteView,
    ] {
        let error = server.answer(call, broken.clone()).await.unwrap_err();
        assert!(error.kind().is_callers_fault(), "{call:?}: {error}");
    }
    let mut client = RegistryServerClient::new(RegistryService {
        server: Arc::new(server),
    });
    let status = client.commit(Request::new(())).await.unwrap();
    assert!(
        status
            .metadata()
            .get("grpc-status")
            .is_none_or(|code| code == "0")
    );
}
