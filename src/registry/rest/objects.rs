//! The routes that list and show objects. Every resource of the API is one row of [`RESOURCES`]; list,
//! list of all projects, and single object are written once.

use std::{cmp::Ordering, collections::HashMap, sync::Arc};

use axum::Json;
use chrono::{DateTime, Utc};
use serde_json::{Map, Value, json};

use super::{
    Api, definition,
    params::Params,
    reply::{self, Answer, Failure},
};
use crate::{
    error::Result,
    model::{FeatureRef, Object, ObjectKind},
    proto::feast::registry::{Feature, PaginationParams},
    registry::{
        Catalog, View,
        changes::any_view,
        datasets::moment,
        features::{self, Wanted},
        lineage::{Lineage, Node, NodeKind, Relation},
        listing::{self, SortKey},
        select::{self, ObjectFilter, ViewFilter},
    },
};

/// What a resource consists of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Content {
    /// Objects of one kind.
    Kind(ObjectKind),
    /// Views of every kind but labels.
    Views,
    /// Fields of views, of Feast's kind `feature` or `label`.
    Fields(&'static str),
}

/// A resource of the API.
#[derive(Debug)]
pub(super) struct Resource {
    pub(super) path: &'static str,
    /// The name of the list in answers.
    pub(super) key: &'static str,
    pub(super) content: Content,
    /// What it is in the lineage.
    node: Option<NodeKind>,
}

const fn resource(
    path: &'static str,
    key: &'static str,
    content: Content,
    node: Option<NodeKind>,
) -> Resource {
    Resource {
        path,
        key,
        content,
        node,
    }
}

/// Every resource; label views are listed under the key of feature views, as in Feast.
pub(super) static RESOURCES: [Resource; 9] = [
    resource(
        "entities",
        "entities",
        Content::Kind(ObjectKind::Entity),
        Some(NodeKind::Entity),
    ),
    resource(
        "data_sources",
        "dataSources",
        Content::Kind(ObjectKind::DataSource),
        Some(NodeKind::DataSource),
    ),
    resource(
        "feature_views",
        "featureViews",
        Content::Views,
        Some(NodeKind::FeatureView),
    ),
    resource(
        "features",
        "features",
        Content::Fields("feature"),
        Some(NodeKind::Feature),
    ),
    resource(
        "labels",
        "labels",
        Content::Fields("label"),
        Some(NodeKind::Feature),
    ),
    resource(
        "label_views",
        "featureViews",
        Content::Kind(ObjectKind::LabelView),
        Some(NodeKind::LabelView),
    ),
    resource(
        "feature_services",
        "featureServices",
        Content::Kind(ObjectKind::FeatureService),
        Some(NodeKind::FeatureService),
    ),
    resource(
        "permissions",
        "permissions",
        Content::Kind(ObjectKind::Permission),
        None,
    ),
    resource(
        "saved_datasets",
        "savedDatasets",
        Content::Kind(ObjectKind::SavedDataset),
        Some(NodeKind::SavedDataset),
    ),
];

/// One thing of a list.
#[derive(Debug, Clone)]
pub(super) enum Item {
    Object(Arc<Object>),
    Field(Box<Feature>),
}

impl Item {
    pub(super) fn name(&self) -> &str {
        match self {
            Self::Object(object) => &object.name,
            Self::Field(feature) => &feature.name,
        }
    }

    fn sort_key(&self, by: &str) -> Result<SortKey> {
        match self {
            Self::Object(object) => listing::attribute(object, by),
            Self::Field(feature) => Ok(features::sort_key(feature, by)),
        }
    }

    /// The node of the lineage that it is.
    fn node(&self, resource: &Resource) -> Option<Node> {
        Some(Node::new(resource.node?, self.name()))
    }

    /// As the API shows it: views say of which type they are, saved datasets where their rows come from.
    pub(super) fn json(&self, catalog: &Catalog) -> Result<Map<String, Value>> {
        let object = match self {
            Self::Field(feature) => return Ok(reply::feature(feature)),
            Self::Object(object) => object,
        };
        let mut fields = reply::object(object)?;
        if object.kind.is_view() {
            let mut typed = Map::new();
            typed.insert("type".to_owned(), view_type(object.kind).into());
            typed.append(&mut fields);
            return Ok(typed);
        }
        if object.kind == ObjectKind::SavedDataset {
            let spec = fields.get_mut("spec").and_then(Value::as_object_mut);
            if let Some(spec) = spec {
                let sources = dataset_sources(catalog, spec.get("features"));
                if !sources.is_empty() {
                    spec.insert("dataSources".to_owned(), json!(sources));
                }
            }
        }
        Ok(fields)
    }
}

/// The name of a kind of view in answers: `onDemandFeatureView`.
pub(super) fn view_type(kind: ObjectKind) -> &'static str {
    match kind {
        ObjectKind::OnDemandFeatureView => "onDemandFeatureView",
        ObjectKind::StreamFeatureView => "streamFeatureView",
        ObjectKind::LabelView => "labelView",
        _ => "featureView",
    }
}

/// The batch sources of the views that the feature references name, each once.
fn dataset_sources(catalog: &Catalog, references: Option<&Value>) -> Vec<String> {
    let mut sources = Vec::new();
    for reference in references.and_then(Value::as_array).into_iter().flatten() {
        let Some(Ok(reference)) = reference.as_str().map(FeatureRef::parse) else {
            continue;
        };
        let Some(View::Stored(view)) = catalog.view(&reference.view) else {
            continue;
        };
        let Some(source) = &view.batch_source else {
            continue;
        };
        if !source.name.is_empty() && !sources.contains(&source.name) {
            sources.push(source.name.clone());
        }
    }
    sources
}

/// Everything of a resource that the parameters want, in the store's order.
pub(super) fn items(catalog: &Catalog, content: Content, params: &Params) -> Result<Vec<Item>, Failure> {
    let objects = match content {
        Content::Fields(kind) => {
            let (view, name) = (params.text("feature_view"), params.text("name"));
            let found = features::list(
                catalog,
                Wanted {
                    view: &view,
                    name: &name,
                    kind,
                },
            );
            return Ok(found
                .into_iter()
                .map(|feature| Item::Field(Box::new(feature)))
                .collect());
        }
        Content::Views => {
            let filter = ViewFilter {
                tags: params.tags(),
                entity: params.text("entity"),
                feature: params.text("feature"),
                feature_service: params.text("feature_service"),
                data_source: params.text("data_source"),
                updated_since: updated_since(params)?,
            };
            select::views(catalog, &filter)?
        }
        Content::Kind(kind) => {
            let filter = ObjectFilter {
                tags: params.tags(),
                namespace: params.text("namespace"),
                collection: params.text("collection"),
                feature_view: params.text("feature_view"),
            };
            select::objects(catalog, kind, &filter)?
        }
    };
    Ok(objects.into_iter().map(Item::Object).collect())
}

fn updated_since(params: &Params) -> Result<Option<DateTime<Utc>>, Failure> {
    let Some(text) = params.get("updated_since") else {
        return Ok(None);
    };
    let wrong = || {
        let hint = "expected an ISO-8601 timestamp (e.g. 2024-01-01T00:00:00Z).";
        Failure::http(400, format!("Invalid 'updated_since' value '{text}'; {hint}"))
    };
    moment(text).map(Some).ok_or_else(wrong)
}

/// One page of a resource as JSON, and where the page lies.
pub(super) fn page(
    catalog: &Catalog,
    content: Content,
    params: &Params,
) -> Result<(Vec<Item>, Value), Failure> {
    let mut found = items(catalog, content, params)?;
    listing::sort(&mut found, Some(&params.sorting()?), Item::sort_key)?;
    let pagination = listing::page(&mut found, Some(&params.paging()?));
    Ok((found, reply::pagination(&pagination)))
}

/// `GET /{resource}`.
pub(super) async fn list(api: &Api, resource: &Resource, params: &Params) -> Answer {
    let catalog = api.catalog(params.project()?, params.allow_cache()?).await?;
    let (items, pagination) = page(&catalog, resource.content, params)?;
    let objects = items
        .iter()
        .map(|item| item.json(&catalog))
        .collect::<Result<Vec<_>>>()?;
    let mut answer = json!({resource.key: objects, "pagination": pagination});
    if params.include_relationships()? {
        answer["relationships"] = json!(relationships(&catalog, resource, &items)?);
    }
    Ok(Json(answer))
}

/// `GET /{resource}/all`: of every project; each object says of which.
pub(super) async fn list_all(api: &Api, resource: &Resource, params: &Params) -> Answer {
    let (paging, sort_by) = (params.page()?, params.text("sort_by"));
    let mut found = Vec::new();
    let mut relations = Map::new();
    for project in api.project_names(params.allow_cache()?).await? {
        let catalog = api.catalog(&project, true).await?;
        let items = items(&catalog, resource.content, params)?;
        if params.include_relationships()? {
            relations.extend(relationships(&catalog, resource, &items)?);
        }
        found.extend(items.into_iter().map(|item| (Arc::clone(&catalog), item)));
    }
    let json = |(catalog, item): &(Arc<Catalog>, Item)| -> Result<Value> {
        let mut fields = item.json(catalog)?;
        fields.insert("project".to_owned(), catalog.project().into());
        Ok(Value::Object(fields))
    };
    let (objects, pagination) = if sort_by.is_empty() {
        let pagination = place(found.len(), &paging);
        let page = cut(found, &paging);
        (page.iter().map(json).collect::<Result<Vec<_>>>()?, pagination)
    } else {
        let mut objects = found.iter().map(json).collect::<Result<Vec<_>>>()?;
        sort_json(&mut objects, &sort_by, params.get("sort_order") == Some("desc"));
        let pagination = place(objects.len(), &paging);
        (cut(objects, &paging), pagination)
    };
    let mut answer = json!({resource.key: objects, "pagination": pagination});
    if params.include_relationships()? {
        answer["relationships"] = Value::Object(relations);
    }
    Ok(Json(answer))
}

/// `GET /{resource}/{name}`.
pub(super) async fn get(api: &Api, resource: &Resource, name: &str, params: &Params) -> Answer {
    let catalog = api.catalog(params.project()?, params.allow_cache()?).await?;
    let object = match resource.content {
        Content::Kind(kind) => catalog.require(kind, name)?,
        Content::Views | Content::Fields(_) => any_view(&catalog, name)?,
    };
    let item = Item::Object(Arc::clone(object));
    let mut fields = item.json(&catalog)?;
    let node = match object.kind {
        ObjectKind::LabelView => Some(Node::new(NodeKind::LabelView, name)),
        _ => item.node(resource),
    };
    let related = related(&catalog, node.as_ref())?;
    if object.kind == ObjectKind::Entity {
        fields.insert(
            "dataSources".to_owned(),
            entity_sources(&catalog, &related)?.into(),
        );
    }
    if params.include_relationships()? {
        fields.insert("relationships".to_owned(), reply::relations(&related).into());
    }
    if let Some(text) = definition::of(object)? {
        fields.insert("featureDefinition".to_owned(), text.into());
    }
    Ok(Json(Value::Object(fields)))
}

/// `GET /features/{feature_view}/{name}`.
pub(super) async fn get_feature(api: &Api, view: &str, name: &str, params: &Params) -> Answer {
    let catalog = api.catalog(params.project()?, params.allow_cache()?).await?;
    let feature = features::get(&catalog, view, name)?;
    let mut fields = reply::feature(&feature);
    if params.include_relationships()? {
        let related = related(&catalog, Some(&Node::new(NodeKind::Feature, name)))?;
        fields.insert("relationships".to_owned(), reply::relations(&related).into());
    }
    fields.insert(
        "featureDefinition".to_owned(),
        definition::of_feature(&feature).into(),
    );
    Ok(Json(Value::Object(fields)))
}

fn related(catalog: &Catalog, node: Option<&Node>) -> Result<Vec<Relation>> {
    let Some(node) = node else { return Ok(Vec::new()) };
    Ok(Lineage::of(catalog)?
        .touching(node, true)
        .into_iter()
        .cloned()
        .collect())
}

/// The registered sources that an entity's relations lead to, each once.
fn entity_sources(catalog: &Catalog, related: &[Relation]) -> Result<Vec<Value>> {
    let mut seen = Vec::new();
    let mut found = Vec::new();
    for target in related.iter().map(|relation| &relation.target) {
        if target.kind == NodeKind::DataSource
            && !seen.contains(&target.name)
            && let Some(source) = catalog.object(ObjectKind::DataSource, &target.name)
        {
            seen.push(target.name.clone());
            found.push(Value::Object(reply::object(source)?));
        }
    }
    Ok(found)
}

/// Every item's edges by its name; the lineage is read once for all of them.
fn relationships(catalog: &Catalog, resource: &Resource, items: &[Item]) -> Result<Map<String, Value>> {
    let lineage = Lineage::of(catalog)?;
    let mut by_node: HashMap<&Node, Vec<Value>> = HashMap::new();
    for relation in lineage.direct.iter().chain(&lineage.indirect) {
        let json = reply::relation(relation);
        by_node.entry(&relation.source).or_default().push(json.clone());
        by_node.entry(&relation.target).or_default().push(json);
    }
    let related = |item: &Item| item.node(resource).and_then(|node| by_node.get(&node).cloned());
    Ok(items
        .iter()
        .map(|item| (item.name().to_owned(), related(item).unwrap_or_default().into()))
        .collect())
}

/// Where a page of a list across projects lies; what is zero or false is left out.
pub(super) fn place(total: usize, paging: &PaginationParams) -> Value {
    let mut probe = vec![(); total];
    let mut place = listing::page(&mut probe, Some(paging));
    (place.page, place.limit) = (paging.page, paging.limit);
    reply::pagination(&place)
}

/// The page itself.
pub(super) fn cut<T>(mut items: Vec<T>, paging: &PaginationParams) -> Vec<T> {
    listing::page(&mut items, Some(paging));
    items
}

/// Sorts by a top-level key; objects without it come as an empty text.
pub(super) fn sort_json(items: &mut [Value], by: &str, descending: bool) {
    let compare = |a: &Value, b: &Value| match (a.get(by), b.get(by)) {
        (Some(Value::Number(a)), Some(Value::Number(b))) => {
            a.as_f64().partial_cmp(&b.as_f64()).unwrap_or(Ordering::Equal)
        }
        (a, b) => {
            let text = |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or_default().to_owned();
            text(a).cmp(&text(b))
        }
    };
    items.sort_by(|a, b| if descending { compare(b, a) } else { compare(a, b) });
}
