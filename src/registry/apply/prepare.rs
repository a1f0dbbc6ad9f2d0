//! Completing what a client may leave out of a definition, before it is checked: join keys, the dummy
//! entity, and the types of the features a service names.

use prost::Message;

use super::validate::{World, view_columns};
use crate::{
    error::{Error, Kind, Result},
    model::{
        Object, ObjectKind,
        feature_view::{DUMMY_ENTITY_NAME, DUMMY_JOIN_KEY},
        wire::{self, Put},
    },
    proto::feast::{core, types::value_type},
};

/// The object as the project will keep it.
pub(super) fn object(mut object: Object, project: &str) -> Result<Object> {
    project.clone_into(&mut object.project);
    object.bytes = match object.kind {
        ObjectKind::Entity if wire::text(&object.bytes, &[1, 4])?.is_empty() => {
            wire::set(&object.bytes, &[1, 4], Put::text(&object.name))?.into()
        }
        ObjectKind::FeatureView => entityless(&object.bytes, 3, 12)?,
        ObjectKind::StreamFeatureView => entityless(&object.bytes, 3, 5)?,
        _ => object.bytes,
    };
    Ok(object)
}

/// Feast keys views without entities by a dummy, by name and as a column.
fn entityless(bytes: &bytes::Bytes, entities: u32, columns: u32) -> Result<bytes::Bytes> {
    if wire::get(bytes, &[1, entities])?.is_some() {
        return Ok(bytes.clone());
    }
    let named = wire::set(bytes, &[1, entities], Put::text(DUMMY_ENTITY_NAME))?;
    if wire::get(bytes, &[1, columns])?.is_some() {
        return Ok(named.into());
    }
    let column = core::FeatureSpecV2 {
        name: DUMMY_JOIN_KEY.to_owned(),
        value_type: value_type::Enum::String as i32,
        ..Default::default()
    };
    Ok(wire::set(&named, &[1, columns], Put::Bytes(&column.encode_to_vec()))?.into())
}

/// The entity every project has.
pub(super) fn dummy_entity(project: &str) -> Object {
    let spec = core::EntitySpecV2 {
        name: DUMMY_ENTITY_NAME.to_owned(),
        project: project.to_owned(),
        join_key: DUMMY_JOIN_KEY.to_owned(),
        ..Default::default()
    };
    Object {
        kind: ObjectKind::Entity,
        project: project.to_owned(),
        name: DUMMY_ENTITY_NAME.to_owned(),
        bytes: core::Entity {
            spec: Some(spec),
            meta: None,
        }
        .encode_to_vec()
        .into(),
    }
}

/// A service whose projections name features without types, or none at all, gets them from the views.
///
/// # Errors
/// In Feast's words, when such a view or feature does not exist.
pub(super) fn service(mut object: Object, world: &World<'_>) -> Result<Object> {
    let projections = wire::repeated(&object.bytes, &[1], 3)?;
    let mut resolved = Vec::with_capacity(projections.len());
    let mut changed = false;
    for bytes in projections {
        let mut projection = core::FeatureViewProjection::decode(bytes)?;
        let columns = &projection.feature_columns;
        if !columns.is_empty() && columns.iter().all(|column| column.value_type != 0) {
            resolved.push(bytes.to_vec());
            continue;
        }
        projection.feature_columns = resolve(&object, &projection, world)?;
        let columns: Vec<Vec<u8>> = projection
            .feature_columns
            .iter()
            .map(Message::encode_to_vec)
            .collect();
        resolved.push(wire::set(bytes, &[2], Put::Each(&columns))?);
        changed = true;
    }
    if changed {
        object.bytes = wire::set(&object.bytes, &[1, 3], Put::Each(&resolved))?.into();
    }
    Ok(object)
}

fn resolve(
    service: &Object,
    projection: &core::FeatureViewProjection,
    world: &World<'_>,
) -> Result<Vec<core::FeatureSpecV2>> {
    let name = &projection.feature_view_name;
    let view = ObjectKind::VIEWS
        .iter()
        .find_map(|kind| world.get(&(*kind, name.as_str())));
    let Some(view) = view else {
        let message = format!("Feature view '{name}' not found in project '{}'", service.project);
        return Err(Error::new(Kind::ObjectNotFound, message));
    };
    let known = view_columns(view)?;
    if projection.feature_columns.is_empty() {
        return Ok(known);
    }
    let wanted = projection.feature_columns.iter();
    wanted
        .map(|wanted| {
            let found = known.iter().find(|column| column.name == wanted.name).cloned();
            found.ok_or_else(|| {
                Error::invalid(format!(
                    "feature service `{}`: feature view `{name}` has no feature `{}`",
                    service.name, wanted.name
                ))
            })
        })
        .collect()
}
