//! `/lineage/*`: edges, and whole projects with their edges.

use axum::{
    Json,
    extract::{Path, State},
};
use serde_json::{Map, Value, json};

use super::{
    Shared,
    objects::{self, Content},
    params::Params,
    reply::{self, Answer, Failure},
};
use crate::{
    model::ObjectKind,
    registry::{
        Catalog,
        grpc::read::{filter_lineage, sort_relations},
        lineage::{Lineage, Node, NodeKind},
        listing,
    },
};

/// The lists of a complete project. In Feast's, `features` holds labels too.
const COMPLETE: [(&str, Content); 8] = [
    ("entities", Content::Kind(ObjectKind::Entity)),
    ("dataSources", Content::Kind(ObjectKind::DataSource)),
    ("featureViews", Content::Views),
    ("labelViews", Content::Kind(ObjectKind::LabelView)),
    ("featureServices", Content::Kind(ObjectKind::FeatureService)),
    ("features", Content::Fields("")),
    ("labels", Content::Fields("label")),
    ("savedDatasets", Content::Kind(ObjectKind::SavedDataset)),
];

/// The edges that the parameters want, and where their pages lie.
struct Page {
    direct: Vec<Value>,
    indirect: Vec<Value>,
    direct_place: Value,
    indirect_place: Value,
}

fn page(catalog: &Catalog, params: &Params) -> Result<Page, Failure> {
    let mut lineage = Lineage::of(catalog)?;
    filter_lineage(
        &mut lineage,
        &params.text("filter_object_type"),
        &params.text("filter_object_name"),
    );
    let (paging, sorting) = (params.paging()?, params.sorting()?);
    sort_relations(&mut lineage.direct, Some(&sorting))?;
    sort_relations(&mut lineage.indirect, Some(&sorting))?;
    let direct_place = reply::pagination(&listing::page(&mut lineage.direct, Some(&paging)));
    let indirect_place = reply::pagination(&listing::page(&mut lineage.indirect, Some(&paging)));
    let (direct, indirect) = (
        reply::relations(&lineage.direct),
        reply::relations(&lineage.indirect),
    );
    Ok(Page {
        direct,
        indirect,
        direct_place,
        indirect_place,
    })
}

/// `GET /lineage/registry`.
pub(super) async fn registry(State(api): Shared, params: Params) -> Answer {
    let catalog = api.catalog(params.project()?, params.allow_cache()?).await?;
    let page = page(&catalog, &params)?;
    Ok(Json(json!({
        "relationships": page.direct,
        "indirect_relationships": page.indirect,
        "relationships_pagination": page.direct_place,
        "indirect_relationships_pagination": page.indirect_place,
    })))
}

/// `GET /lineage/registry/all`: each edge says of which project it is.
pub(super) async fn registry_all(State(api): Shared, params: Params) -> Answer {
    let (mut direct, mut indirect) = (Vec::new(), Vec::new());
    for project in api.project_names(params.allow_cache()?).await? {
        let catalog = api.catalog(&project, true).await?;
        let mut lineage = Lineage::of(&catalog)?;
        filter_lineage(
            &mut lineage,
            &params.text("filter_object_type"),
            &params.text("filter_object_name"),
        );
        for (from, to) in [(&lineage.direct, &mut direct), (&lineage.indirect, &mut indirect)] {
            to.extend(from.iter().map(|relation| {
                let mut edge = reply::relation(relation);
                edge["project"] = project.as_str().into();
                edge
            }));
        }
    }
    Ok(Json(
        json!({"relationships": direct, "indirect_relationships": indirect}),
    ))
}

/// `GET /lineage/objects/{type}/{name}`.
pub(super) async fn object(
    State(api): Shared,
    Path((kind, name)): Path<(String, String)>,
    params: Params,
) -> Answer {
    let node = Node::new(NodeKind::from_name(&kind)?, name);
    let catalog = api.catalog(params.project()?, params.allow_cache()?).await?;
    let indirect = params.flag("include_indirect", false)?;
    let mut found: Vec<_> = Lineage::of(&catalog)?
        .touching(&node, indirect)
        .into_iter()
        .cloned()
        .collect();
    sort_relations(&mut found, Some(&params.sorting()?))?;
    let place = listing::page(&mut found, Some(&params.paging()?));
    let mut answer = Map::new();
    if !found.is_empty() {
        answer.insert("relationships".to_owned(), reply::relations(&found).into());
    }
    answer.insert("pagination".to_owned(), reply::pagination(&place));
    Ok(Json(answer.into()))
}

/// Lists of objects by their names in the answer.
type Lists = Map<String, Value>;

/// Every list of a project and where its page lies.
fn lists(catalog: &Catalog, params: &Params, mark: bool) -> Result<(Lists, Map<String, Value>), Failure> {
    let (mut objects, mut places) = (Map::new(), Map::new());
    for (key, content) in COMPLETE {
        let (items, place) = objects::page(catalog, content, params)?;
        let mut list = Vec::new();
        for item in &items {
            let mut fields = item.json(catalog)?;
            if matches!(content, Content::Views)
                && let Some(Value::String(kind)) = fields.shift_remove("type")
            {
                // Feast leaves these in the envelope of the call that lists all views.
                fields = Map::from_iter([(kind, Value::Object(fields))]);
            }
            if mark {
                fields.insert("project".to_owned(), catalog.project().into());
            }
            list.push(Value::Object(fields));
        }
        objects.insert(key.to_owned(), list.into());
        places.insert(key.to_owned(), place);
    }
    Ok((objects, places))
}

/// `GET /lineage/complete`.
pub(super) async fn complete(State(api): Shared, params: Params) -> Answer {
    let project = params.project()?;
    let catalog = api.catalog(project, params.allow_cache()?).await?;
    let (objects, mut places) = lists(&catalog, &params, false)?;
    let page = page(&catalog, &params)?;
    places.insert("relationships".to_owned(), page.direct_place);
    places.insert("indirectRelationships".to_owned(), page.indirect_place);
    Ok(Json(json!({
        "project": project,
        "objects": objects,
        "relationships": page.direct,
        "indirectRelationships": page.indirect,
        "pagination": places,
    })))
}

/// `GET /lineage/complete/all`.
pub(super) async fn complete_all(State(api): Shared, params: Params) -> Answer {
    let mut projects = Vec::new();
    let everything = Params::default();
    for project in api.project_names(params.allow_cache()?).await? {
        let catalog = api.catalog(&project, true).await?;
        let (objects, _) = lists(&catalog, &everything, true)?;
        let page = page(&catalog, &everything)?;
        projects.push(json!({
            "project": project,
            "objects": objects,
            "relationships": page.direct,
            "indirectRelationships": page.indirect,
        }));
    }
    Ok(Json(json!({"projects": projects})))
}
