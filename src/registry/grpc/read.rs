//! The calls that read: answered from a catalog, without I/O when the caller allows the cache.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use prost::Message;

use super::Server;
use crate::{
    error::Result,
    model::{Object, ObjectKind, feature_view},
    proto::feast::{
        core,
        registry::{
            EntityReference, EntityRelation, GetEntityRequest, GetFeatureRequest, GetInfraRequest,
            GetObjectRelationshipsRequest, GetObjectRelationshipsResponse, GetProjectRequest,
            GetRegistryLineageRequest, GetRegistryLineageResponse, ListAllFeatureViewsRequest,
            ListFeatureServicesRequest, ListFeaturesRequest, ListFeaturesResponse,
            ListProjectMetadataRequest, ListProjectMetadataResponse, ListProjectsRequest,
            ListSavedDatasetsRequest, PaginationParams, SortingParams,
        },
    },
    registry::{
        Registry,
        changes::any_view,
        envelopes::{
            self, AnyFeatureView, GetAnyFeatureViewResponse, ListAllFeatureViewsResponse, ListResponse,
            RegistryProto,
        },
        features::{self, Wanted},
        lineage::{Lineage, Node, NodeKind, Relation},
        listing::{self, SortKey},
        select::{self, ObjectFilter, ViewFilter},
    },
};

/// What every list request holds, whatever its kind.
struct ListRequest {
    project: String,
    allow_cache: bool,
    filter: ObjectFilter,
    pagination: Option<PaginationParams>,
    sorting: Option<SortingParams>,
}

impl ListRequest {
    /// All list requests are laid out as that of saved datasets, which has the most fields, except
    /// those of services and of projects.
    fn decode(kind: ObjectKind, bytes: Bytes) -> Result<Self> {
        Ok(match kind {
            ObjectKind::Project => {
                let request = ListProjectsRequest::decode(bytes)?;
                Self {
                    project: String::new(),
                    allow_cache: request.allow_cache,
                    filter: ObjectFilter {
                        tags: request.tags,
                        ..Default::default()
                    },
                    pagination: request.pagination,
                    sorting: request.sorting,
                }
            }
            ObjectKind::FeatureService => {
                let request = ListFeatureServicesRequest::decode(bytes)?;
                let filter = ObjectFilter {
                    tags: request.tags,
                    feature_view: request.feature_view,
                    ..Default::default()
                };
                Self {
                    project: request.project,
                    allow_cache: request.allow_cache,
                    filter,
                    pagination: request.pagination,
                    sorting: request.sorting,
                }
            }
            _ => {
                let request = ListSavedDatasetsRequest::decode(bytes)?;
                let filter = ObjectFilter {
                    tags: request.tags,
                    namespace: request.namespace,
                    collection: request.collection,
                    ..Default::default()
                };
                Self {
                    project: request.project,
                    allow_cache: request.allow_cache,
                    filter,
                    pagination: request.pagination,
                    sorting: request.sorting,
                }
            }
        })
    }
}

impl Server {
    pub(super) async fn get(&self, kind: ObjectKind, request: Bytes) -> Result<Bytes> {
        let (name, project, allow_cache) = if kind == ObjectKind::Project {
            let request = GetProjectRequest::decode(request)?;
            (request.name.clone(), request.name, request.allow_cache)
        } else {
            let request = GetEntityRequest::decode(request)?;
            (request.name, request.project, request.allow_cache)
        };
        let catalog = self.catalog(&project, allow_cache).await?;
        Ok(envelopes::with_project(catalog.require(kind, &name)?))
    }

    pub(super) async fn list(&self, kind: ObjectKind, request: Bytes) -> Result<Bytes> {
        let request = ListRequest::decode(kind, request)?;
        let mut objects = if kind == ObjectKind::Project {
            projects(self.registry(), request.allow_cache, &request.filter.tags).await?
        } else {
            let catalog = self.catalog(&request.project, request.allow_cache).await?;
            select::objects(&catalog, kind, &request.filter)?
        };
        listing::sort(&mut objects, request.sorting.as_ref(), |object, by| {
            listing::attribute(object, by)
        })?;
        let pagination = Some(listing::page(&mut objects, request.pagination.as_ref()));
        let objects = objects
            .iter()
            .map(|object| envelopes::with_project(object))
            .collect();
        Ok(encode(&ListResponse { objects, pagination }))
    }

    pub(super) async fn get_any_view(&self, request: Bytes) -> Result<Bytes> {
        let request = GetEntityRequest::decode(request)?;
        let catalog = self.catalog(&request.project, request.allow_cache).await?;
        let view = AnyFeatureView::new(any_view(&catalog, &request.name)?);
        Ok(encode(&GetAnyFeatureViewResponse {
            any_feature_view: Some(view),
        }))
    }

    pub(super) async fn list_all_views(&self, request: Bytes) -> Result<Bytes> {
        let request = ListAllFeatureViewsRequest::decode(request)?;
        let catalog = self.catalog(&request.project, request.allow_cache).await?;
        let filter = ViewFilter {
            tags: request.tags,
            entity: request.entity,
            feature: request.feature,
            feature_service: request.feature_service,
            data_source: request.data_source,
            updated_since: request.updated_since.as_ref().and_then(feature_view::timestamp),
        };
        let mut views = select::views(&catalog, &filter)?;
        listing::sort(&mut views, request.sorting.as_ref(), |view, by| {
            listing::attribute(view, by)
        })?;
        let pagination = Some(listing::page(&mut views, request.pagination.as_ref()));
        let feature_views = views.iter().map(|view| AnyFeatureView::new(view)).collect();
        Ok(encode(&ListAllFeatureViewsResponse {
            feature_views,
            pagination,
        }))
    }

    pub(super) async fn get_feature(&self, request: Bytes) -> Result<Bytes> {
        let request = GetFeatureRequest::decode(request)?;
        let catalog = self.catalog(&request.project, request.allow_cache).await?;
        Ok(encode(&features::get(
            &catalog,
            &request.feature_view,
            &request.name,
        )?))
    }

    pub(super) async fn list_features(&self, request: Bytes) -> Result<Bytes> {
        let request = ListFeaturesRequest::decode(request)?;
        let catalog = self.catalog(&request.project, request.allow_cache).await?;
        let wanted = Wanted {
            view: &request.feature_view,
            name: &request.name,
            kind: &request.kind,
        };
        let mut features = features::list(&catalog, wanted);
        listing::sort(&mut features, request.sorting.as_ref(), |feature, by| {
            Ok(features::sort_key(feature, by))
        })?;
        let pagination = Some(listing::page(&mut features, request.pagination.as_ref()));
        Ok(encode(&ListFeaturesResponse { features, pagination }))
    }

    pub(super) async fn get_infra(&self, request: Bytes) -> Result<Bytes> {
        let request = GetInfraRequest::decode(request)?;
        Ok(self
            .catalog(&request.project, request.allow_cache)
            .await?
            .state()
            .infra
            .clone()
            .unwrap_or_default())
    }

    pub(super) async fn list_project_metadata(&self, request: Bytes) -> Result<Bytes> {
        let request = ListProjectMetadataRequest::decode(request)?;
        let catalog = self.catalog(&request.project, request.allow_cache).await?;
        let uuids = catalog
            .state()
            .metadata
            .iter()
            .filter(|(key, _)| key == "project_uuid");
        let metadata = |(_, uuid): &(String, String)| core::ProjectMetadata {
            project: request.project.clone(),
            project_uuid: uuid.clone(),
        };
        let project_metadata = uuids.map(metadata).collect();
        Ok(encode(&ListProjectMetadataResponse { project_metadata }))
    }

    /// Every object of every project, each with its project filled in.
    pub(super) async fn proto(&self) -> Result<Bytes> {
        let mut proto = RegistryProto::default();
        let mut newest = None;
        for project in self.registry().projects().await? {
            let catalog = self.catalog(&project, false).await?;
            for kind in ObjectKind::ALL {
                proto.list(kind).extend(
                    catalog
                        .objects(kind)
                        .iter()
                        .map(|object| envelopes::with_project(object)),
                );
            }
            if newest <= catalog.state().last_updated {
                newest = catalog.state().last_updated;
                proto.version_id.clone_from(&catalog.state().revision.0);
            }
        }
        proto.last_updated = newest.map(|at| prost_types::Timestamp {
            seconds: at.timestamp(),
            nanos: i32::try_from(at.timestamp_subsec_nanos()).unwrap_or_default(),
        });
        Ok(encode(&proto))
    }

    pub(super) async fn get_lineage(&self, request: Bytes) -> Result<Bytes> {
        let request = GetRegistryLineageRequest::decode(request)?;
        let catalog = self.catalog(&request.project, request.allow_cache).await?;
        let mut lineage = Lineage::of(&catalog)?;
        filter_lineage(
            &mut lineage,
            &request.filter_object_type,
            &request.filter_object_name,
        );
        let (params, sorting) = (request.pagination.as_ref(), request.sorting.as_ref());
        sort_relations(&mut lineage.direct, sorting)?;
        sort_relations(&mut lineage.indirect, sorting)?;
        let relationships_pagination = Some(listing::page(&mut lineage.direct, params));
        let indirect_relationships_pagination = Some(listing::page(&mut lineage.indirect, params));
        Ok(encode(&GetRegistryLineageResponse {
            relationships: lineage.direct.iter().map(relation).collect(),
            indirect_relationships: lineage.indirect.iter().map(relation).collect(),
            relationships_pagination,
            indirect_relationships_pagination,
        }))
    }

    pub(super) async fn get_relationships(&self, request: Bytes) -> Result<Bytes> {
        let request = GetObjectRelationshipsRequest::decode(request)?;
        let node = Node::new(NodeKind::from_name(&request.object_type)?, request.object_name);
        let catalog = self.catalog(&request.project, request.allow_cache).await?;
        let lineage = Lineage::of(&catalog)?;
        let mut found: Vec<_> = lineage
            .touching(&node, request.include_indirect)
            .into_iter()
            .cloned()
            .collect();
        sort_relations(&mut found, request.sorting.as_ref())?;
        let pagination = Some(listing::page(&mut found, request.pagination.as_ref()));
        let relationships = found.iter().map(relation).collect();
        Ok(encode(&GetObjectRelationshipsResponse {
            relationships,
            pagination,
        }))
    }
}

/// The projects that are not hidden by the protection tag.
///
/// # Errors
/// What the registry returns.
pub(crate) async fn projects(
    registry: &Registry,
    allow_cache: bool,
    tags: &BTreeMap<String, String>,
) -> Result<Vec<Arc<Object>>> {
    if !allow_cache {
        registry.refresh().await?;
    }
    let mut found = Vec::new();
    for name in registry.projects().await? {
        let catalog = registry.catalog(&name).await?;
        let Some(project) = catalog.object(ObjectKind::Project, &name) else {
            continue;
        };
        let own = listing::tags(project)?;
        let hidden = own
            .get(listing::PROTECTED_PROJECT_TAG)
            .is_some_and(|value| value == "true");
        if !hidden && tags.iter().all(|(key, value)| own.get(key) == Some(value)) {
            found.push(Arc::clone(project));
        }
    }
    Ok(found)
}

/// Keeps the edges of one object when both its type and its name are given; none of an unknown type.
pub(crate) fn filter_lineage(lineage: &mut Lineage, kind: &str, name: &str) {
    if kind.is_empty() || name.is_empty() {
        return;
    }
    match NodeKind::from_name(kind) {
        Ok(kind) => lineage.retain(&Node::new(kind, name)),
        Err(_) => *lineage = Lineage::default(),
    }
}

/// Feast sorts relations by attributes of its own objects (`source.name`, `target.type`).
pub(crate) fn sort_relations(relations: &mut Vec<Relation>, sorting: Option<&SortingParams>) -> Result<()> {
    let key = |relation: &Relation, by: &str| {
        Ok(match by {
            "source.name" => SortKey::text(&relation.source.name),
            "source.type" => SortKey::text(relation.source.kind.name()),
            "target.name" => SortKey::text(&relation.target.name),
            "target.type" => SortKey::text(relation.target.kind.name()),
            _ => SortKey::Missing,
        })
    };
    listing::sort(relations, sorting, key)
}

fn relation(relation: &Relation) -> EntityRelation {
    let end = |node: &Node| {
        Some(EntityReference {
            r#type: node.kind.name().to_owned(),
            name: node.name.clone(),
        })
    };
    EntityRelation {
        source: end(&relation.source),
        target: end(&relation.target),
    }
}

fn encode(message: &impl Message) -> Bytes {
    message.encode_to_vec().into()
}
