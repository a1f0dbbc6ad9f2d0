//! What Feast's REST server cannot do with feature views: enabling and disabling them, moving them from
//! state to state, and showing their versions.

use axum::{
    Json,
    extract::{Path, State},
};
use chrono::SecondsFormat;
use serde_json::{Value, json};

use super::{
    Api, Shared,
    objects::view_type,
    params::{Body, Params},
    reply::{self, Answer},
    writes::author,
};
use crate::{
    error::{Error, Result},
    http::openapi::schema::body,
    model::Object,
    proto::feast::core::FeatureViewState,
    registry::changes::any_view,
};

body! {
    /// `PUT /feature_views/{name}/set-state`.
    pub(super) struct StateBody {
        /// By the name of the enum, such as `AVAILABLE_ONLINE`.
        pub(super) state: String,
    }
}

/// `PUT /feature_views/{name}/enable`.
pub(super) async fn enable(State(api): Shared, Path(name): Path<String>, params: Params) -> Answer {
    set_enabled(&api, &name, &params, true).await
}

/// `PUT /feature_views/{name}/disable`.
pub(super) async fn disable(State(api): Shared, Path(name): Path<String>, params: Params) -> Answer {
    set_enabled(&api, &name, &params, false).await
}

async fn set_enabled(api: &Api, name: &str, params: &Params, enabled: bool) -> Answer {
    let project = params.project()?;
    api.changes
        .registry
        .set_enabled(project, name, enabled, &author())
        .await?;
    Ok(Json(
        json!({"name": name, "project": project, "enabled": enabled}),
    ))
}

/// `PUT /feature_views/{name}/set-state`.
pub(super) async fn set_state(
    State(api): Shared,
    Path(name): Path<String>,
    params: Params,
    Body(body): Body<StateBody>,
) -> Answer {
    let project = params.project()?;
    let state = FeatureViewState::from_str_name(&body.state.to_uppercase()).ok_or_else(|| {
        Error::invalid(format!("`{}` is no state of a feature view", body.state))
            .hint("one of CREATED, GENERATED, MATERIALIZING, AVAILABLE_ONLINE")
    })?;
    api.changes
        .registry
        .set_state(project, &name, state, &author())
        .await?;
    Ok(Json(
        json!({"name": name, "project": project, "state": state.as_str_name()}),
    ))
}

/// `GET /feature_views/{name}/versions`.
pub(super) async fn versions(State(api): Shared, Path(name): Path<String>, params: Params) -> Answer {
    let catalog = api.catalog(params.project()?, params.allow_cache()?).await?;
    let view = any_view(&catalog, &name)?;
    let active = reply::object(view)?
        .get("meta")
        .and_then(|meta| meta.get("currentVersionNumber"))
        .and_then(Value::as_u64)
        .unwrap_or_default();
    let mut stored: Vec<_> = catalog
        .state()
        .versions
        .iter()
        .filter(|version| version.view == name)
        .collect();
    stored.sort_by_key(|version| std::cmp::Reverse(version.number));
    let versions = stored
        .into_iter()
        .map(|version| {
            let object = Object {
                kind: version.kind,
                bytes: version.bytes.clone(),
                ..Object::clone(view)
            };
            let mut definition = reply::object(&object)?;
            definition.insert("type".to_owned(), view_type(version.kind).into());
            Ok(json!({
                "version": version.number,
                "type": view_type(version.kind),
                "created": version.created.to_rfc3339_opts(SecondsFormat::Micros, true),
                "versionId": version.version_id,
                "isActive": u64::from(version.number) == active,
                "definition": definition,
            }))
        })
        .collect::<Result<Vec<Value>>>()?;
    Ok(Json(json!({"name": name, "versions": versions})))
}
