//! The routes that write: `POST /{resource}` and `DELETE /{resource}/{name}`. Bodies are Feast's; what
//! they describe is built as a protobuf object and applied as if a client had sent it over gRPC.

use std::collections::BTreeMap;

use axum::{Json, extract::State, http::StatusCode};
use prost::Message;
use serde_json::{Value, json};

use super::{
    Api, Shared,
    objects::{Content, Resource},
    params::{Body, Params},
    reply::{Answer, Failure},
};
use crate::{
    error::{Error, Result},
    model::{Object, ObjectKind},
    proto::feast::core::{self, data_source, policy::PolicyType},
    registry::{
        Catalog,
        changes::any_view,
        datasets::{of_service, storage},
        envelopes,
        store::history::Author,
    },
};

pub(super) mod bodies;

use bodies::*;

type Tags = BTreeMap<String, String>;
type Created = Result<(StatusCode, Json<Value>), Failure>;

/// `DELETE /{resource}/{name}`.
pub(super) async fn remove(api: &Api, resource: &Resource, name: &str, params: &Params) -> Answer {
    let project = params.project()?;
    match resource.content {
        Content::Kind(kind) => api.changes.delete(kind, project, name, &author()).await?,
        Content::Views | Content::Fields(_) => api.changes.delete_view(project, name, &author()).await?,
    }
    // Feast answers in another form for saved datasets.
    let done = if resource.path == "saved_datasets" {
        "ok"
    } else {
        "deleted"
    };
    Ok(Json(json!({"name": name, "project": project, "status": done})))
}

/// Callers do not say who they are.
pub(super) fn author() -> Author {
    Author::anonymous("REST")
}

async fn put(api: &Api, kind: ObjectKind, project: &str, message: &impl Message) -> Result<String> {
    if project.trim().is_empty() {
        return Err(Error::invalid("the body names no project"));
    }
    let object = envelopes::object(kind, project, message.encode_to_vec().into())?;
    let name = object.name.clone();
    api.changes.apply(object, &author()).await?;
    Ok(name)
}

async fn create(api: &Api, kind: ObjectKind, project: &str, message: &impl Message) -> Created {
    let name = put(api, kind, project, message).await?;
    Ok((
        StatusCode::CREATED,
        Json(json!({"name": name, "project": project, "status": "applied"})),
    ))
}

/// `POST /entities`.
pub(super) async fn entity(State(api): Shared, Body(body): Body<EntityBody>) -> Created {
    let join_key = body
        .join_key
        .filter(|key| !key.is_empty())
        .unwrap_or_else(|| body.name.clone());
    let spec = core::EntitySpecV2 {
        name: body.name,
        value_type: body.value_type.unwrap_or(2),
        join_key,
        description: body.description.unwrap_or_default(),
        tags: body.tags.unwrap_or_default(),
        owner: body.owner.unwrap_or_default(),
        ..Default::default()
    };
    create(
        &api,
        ObjectKind::Entity,
        &body.project,
        &core::Entity {
            spec: Some(spec),
            meta: None,
        },
    )
    .await
}

/// `POST /data_sources`.
pub(super) async fn data_source(State(api): Shared, Body(mut body): Body<DataSourceBody>) -> Created {
    let options = body.options();
    let source = core::DataSource {
        name: body.name,
        r#type: body.r#type.unwrap_or_default(),
        timestamp_field: body.timestamp_field.unwrap_or_default(),
        created_timestamp_column: body.created_timestamp_column.unwrap_or_default(),
        date_partition_column: body.date_partition_column.unwrap_or_default(),
        description: body.description.unwrap_or_default(),
        tags: body.tags.unwrap_or_default(),
        owner: body.owner.unwrap_or_default(),
        data_source_class_type: body.data_source_class_type.unwrap_or_default(),
        options,
        ..Default::default()
    };
    if source.r#type == data_source::SourceType::Invalid as i32 {
        return Err(Error::invalid("Could not identify the source type being added.").into());
    }
    create(&api, ObjectKind::DataSource, &body.project, &source).await
}

/// `POST /feature_views`: the source is named; the join keys come from the entities.
pub(super) async fn feature_view(State(api): Shared, Body(body): Body<FeatureViewBody>) -> Created {
    let catalog = api.catalog(&body.project, false).await?;
    let batch_source = match body.batch_source.filter(|name| !name.is_empty()) {
        Some(name) => Some(
            catalog
                .require(ObjectKind::DataSource, &name)?
                .decode::<core::DataSource>()?,
        ),
        None => None,
    };
    let entities = body.entities.unwrap_or_default();
    let join_key = |name: &String| {
        let entity = catalog.entity(name)?;
        Some(core::FeatureSpecV2 {
            name: if entity.join_key.is_empty() {
                entity.name.clone()
            } else {
                entity.join_key.clone()
            },
            value_type: entity.value_type,
            ..Default::default()
        })
    };
    let field = |field: FieldBody| core::FeatureSpecV2 {
        name: field.name,
        value_type: field.value_type.unwrap_or(2),
        description: field.description.unwrap_or_default(),
        ..Default::default()
    };
    let spec = core::FeatureViewSpec {
        name: body.name,
        entity_columns: entities.iter().filter_map(join_key).collect(),
        entities,
        features: body.features.unwrap_or_default().into_iter().map(field).collect(),
        tags: body.tags.unwrap_or_default(),
        description: body.description.unwrap_or_default(),
        owner: body.owner.unwrap_or_default(),
        online: body.online.unwrap_or(true),
        ttl: body
            .ttl_seconds
            .map(|seconds| prost_types::Duration { seconds, nanos: 0 }),
        batch_source,
        ..Default::default()
    };
    create(
        &api,
        ObjectKind::FeatureView,
        &body.project,
        &core::FeatureView {
            spec: Some(spec),
            meta: None,
        },
    )
    .await
}

/// `POST /feature_services`: the projected fields come from the views.
pub(super) async fn feature_service(State(api): Shared, Body(body): Body<FeatureServiceBody>) -> Created {
    let catalog = api.catalog(&body.project, false).await?;
    let features = body
        .features
        .iter()
        .map(|wanted| projection(&catalog, wanted))
        .collect::<Result<Vec<_>>>()?;
    let spec = core::FeatureServiceSpec {
        name: body.name,
        features,
        tags: body.tags.unwrap_or_default(),
        description: body.description.unwrap_or_default(),
        owner: body.owner.unwrap_or_default(),
        ..Default::default()
    };
    let service = core::FeatureService {
        spec: Some(spec),
        meta: None,
    };
    create(&api, ObjectKind::FeatureService, &body.project, &service).await
}

fn projection(catalog: &Catalog, wanted: &ServiceViewBody) -> Result<core::FeatureViewProjection> {
    let name = &wanted.feature_view_name;
    let object = any_view(catalog, name).map_err(|error| {
        let text = format!(
            "Feature view '{name}' not found in project '{}'",
            catalog.project()
        );
        Error::new(error.kind(), text)
    })?;
    let (fields, batch_source, label) = view_parts(object)?;
    let names = wanted.feature_names.as_deref().unwrap_or_default();
    let missing = names
        .iter()
        .find(|wanted| !fields.iter().any(|field| field.name == **wanted));
    if let Some(missing) = missing {
        return Err(Error::invalid(format!(
            "feature view `{name}` has no feature `{missing}`"
        )));
    }
    let order = |field: &core::FeatureSpecV2| names.iter().position(|name| *name == field.name);
    let mut columns: Vec<_> = match names.is_empty() {
        true => fields,
        false => fields
            .into_iter()
            .filter(|field| names.contains(&field.name))
            .collect(),
    };
    columns.sort_by_key(order);
    let source = batch_source.as_ref();
    Ok(core::FeatureViewProjection {
        feature_view_name: name.clone(),
        feature_columns: columns,
        timestamp_field: source
            .map(|source| source.timestamp_field.clone())
            .unwrap_or_default(),
        created_timestamp_column: source
            .map(|source| source.created_timestamp_column.clone())
            .unwrap_or_default(),
        date_partition_column: source
            .map(|source| source.date_partition_column.clone())
            .unwrap_or_default(),
        batch_source,
        view_type: if label { "labelView" } else { "featureView" }.to_owned(),
        ..Default::default()
    })
}

/// A view's fields, its batch source, and whether it holds labels.
fn view_parts(object: &Object) -> Result<(Vec<core::FeatureSpecV2>, Option<core::DataSource>, bool)> {
    Ok(match object.kind {
        ObjectKind::OnDemandFeatureView => (
            object
                .decode::<core::OnDemandFeatureView>()?
                .spec
                .unwrap_or_default()
                .features,
            None,
            false,
        ),
        ObjectKind::StreamFeatureView => {
            let spec = object
                .decode::<core::StreamFeatureView>()?
                .spec
                .unwrap_or_default();
            let keys: Vec<_> = spec.entity_columns.iter().map(|key| key.name.clone()).collect();
            let fields = spec
                .features
                .into_iter()
                .filter(|field| !keys.contains(&field.name));
            (fields.collect(), spec.batch_source, false)
        }
        ObjectKind::LabelView => {
            let spec = object.decode::<core::LabelView>()?.spec.unwrap_or_default();
            let batch = spec
                .source
                .and_then(|source| source.batch_source)
                .map(|batch| *batch);
            (spec.features, batch, true)
        }
        _ => {
            let spec = object.decode::<core::FeatureView>()?.spec.unwrap_or_default();
            (spec.features, spec.batch_source, false)
        }
    })
}

/// `POST /permissions`: types and actions by the names of their enums.
pub(super) async fn permission(State(api): Shared, Body(body): Body<PermissionBody>) -> Created {
    use core::permission_spec::{AuthzedAction, Type};
    let types = numbers("types", &body.types.unwrap_or_default(), |name| {
        Type::from_str_name(name).map(Into::into)
    })?;
    let actions = numbers("actions", &body.actions.unwrap_or_default(), |name| {
        AuthzedAction::from_str_name(name).map(Into::into)
    })?;
    let policy_type = body.policy.into_proto();
    if policy_type.is_none() {
        // Feast takes an empty policy and then cannot read the permission again.
        return Err(Error::invalid("`policy` holds none of the four kinds of policy").into());
    }
    let spec = core::PermissionSpec {
        name: body.name,
        types,
        actions,
        name_patterns: body.name_patterns.unwrap_or_default(),
        required_tags: body.required_tags.unwrap_or_default(),
        tags: body.tags.unwrap_or_default(),
        policy: Some(core::Policy {
            policy_type,
            ..Default::default()
        }),
        ..Default::default()
    };
    create(
        &api,
        ObjectKind::Permission,
        &body.project,
        &core::Permission {
            spec: Some(spec),
            meta: None,
        },
    )
    .await
}

fn numbers(field: &str, names: &[String], number: impl Fn(&str) -> Option<i32>) -> Result<Vec<i32>, Failure> {
    let unknown: Vec<_> = names.iter().filter(|name| number(name).is_none()).collect();
    if !unknown.is_empty() {
        return Err(Failure::http(400, format!("Invalid {field}: {unknown:?}")));
    }
    Ok(names.iter().filter_map(|name| number(name)).collect())
}

/// `POST /saved_datasets`: registers a dataset that lies somewhere already.
pub(super) async fn saved_dataset(State(api): Shared, Body(body): Body<SavedDatasetBody>) -> Answer {
    let (name, project) = (body.name.trim().to_owned(), body.project.trim().to_owned());
    let path = body.storage_path.as_deref().unwrap_or_default().trim();
    let needed = [
        (name.as_str(), "Dataset name is required."),
        (&project, "Project is required."),
        (
            path,
            "Storage path is required. Provide a file path or table reference.",
        ),
    ];
    for (value, message) in needed {
        if value.is_empty() {
            return Err(Failure::http(400, message));
        }
    }
    let catalog = api.catalog(&project, false).await?;
    if body.allow_override != Some(true) && catalog.object(ObjectKind::SavedDataset, &name).is_some() {
        let taken = format!("A dataset named \"{name}\" already exists in project \"{project}\".");
        return Err(Failure::http(409, format!("{taken} Use edit to update it.")));
    }
    let format = body.storage_file_format.as_deref().unwrap_or("parquet");
    let kind = storage(body.storage_type.as_deref().unwrap_or("file"), path, format);
    let service = body.feature_service_name.unwrap_or_default();
    let (features, join_keys) = of_service(&catalog, service.trim());
    let spec = core::SavedDatasetSpec {
        name: name.clone(),
        project: project.clone(),
        features: body
            .features
            .filter(|given| !given.is_empty())
            .unwrap_or(features),
        join_keys: body
            .join_keys
            .filter(|given| !given.is_empty())
            .unwrap_or(join_keys),
        full_feature_names: body.full_feature_names.unwrap_or_default(),
        storage: Some(core::SavedDatasetStorage { kind: Some(kind) }),
        feature_service_name: service,
        tags: body.tags.unwrap_or_default(),
        namespace: body.namespace.unwrap_or_default(),
        collection: body.collection.unwrap_or_default(),
        description: body.description.unwrap_or_default(),
        ..Default::default()
    };
    let dataset = core::SavedDataset {
        spec: Some(spec),
        meta: None,
    };
    put(&api, ObjectKind::SavedDataset, &project, &dataset).await?;
    Ok(Json(json!({"status": "ok", "name": name, "project": project})))
}
