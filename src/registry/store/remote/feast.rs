//! A registry behind Feast's own server: lists are asked for, and changes are sent object by object.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::future::try_join_all;

use super::{
    super::{Change, PROJECT_UUID, ProjectState, Revision},
    channel::Connection,
};
use crate::{
    error::{Error, Kind, Result},
    model::{
        Object, ObjectKind,
        wire::{self, write_bytes},
    },
};

/// How often the server is asked for everything.
pub(super) const PERIOD: Duration = Duration::from_secs(5);

/// What the calls about a kind are called.
fn calls(kind: ObjectKind) -> (&'static str, &'static str) {
    match kind {
        ObjectKind::Project => ("Project", "Projects"),
        ObjectKind::DataSource => ("DataSource", "DataSources"),
        ObjectKind::Entity => ("Entity", "Entities"),
        ObjectKind::FeatureView => ("FeatureView", "FeatureViews"),
        ObjectKind::OnDemandFeatureView => ("OnDemandFeatureView", "OnDemandFeatureViews"),
        ObjectKind::StreamFeatureView => ("StreamFeatureView", "StreamFeatureViews"),
        ObjectKind::LabelView => ("LabelView", "LabelViews"),
        ObjectKind::FeatureService => ("FeatureService", "FeatureServices"),
        ObjectKind::SavedDataset => ("SavedDataset", "SavedDatasets"),
        ObjectKind::ValidationReference => ("ValidationReference", "ValidationReferences"),
        ObjectKind::Permission => ("Permission", "Permissions"),
    }
}

/// Names of the projects the server shows.
pub(super) async fn projects(connection: &Connection) -> Result<Vec<String>> {
    let list = connection.call("ListProjects", Bytes::new()).await?;
    let mut names = wire::repeated(&list, &[], 1)?
        .into_iter()
        .map(|project| Ok(wire::text(project, ObjectKind::Project.name_path())?.to_owned()))
        .collect::<Result<Vec<_>>>()?;
    names.sort();
    Ok(names)
}

/// The project as the server shows it; objects that are as in `known` are shared with it.
pub(super) async fn load(
    connection: &Connection,
    project: &str,
    known: Option<&ProjectState>,
) -> Result<ProjectState> {
    let lists = ObjectKind::ALL.into_iter().map(|kind| async move {
        let mut request = Vec::new();
        if kind != ObjectKind::Project {
            write_bytes(1, project.as_bytes(), &mut request);
        }
        let method = format!("List{}", calls(kind).1);
        let list = connection.call(&method, request.into()).await?;
        Ok::<_, Error>((kind, list))
    });
    let mut state = ProjectState::empty(project, Revision::default());
    for (kind, list) in try_join_all(lists).await? {
        for bytes in wire::repeated(&list, &[], 1)? {
            let mut object = Object::from_bytes(kind, Bytes::copy_from_slice(bytes))?;
            if kind == ObjectKind::Project && object.name != project {
                continue;
            }
            project.clone_into(&mut object.project);
            let same = known.and_then(|known| known.object(kind, &object.name));
            state.objects.put(match same {
                Some(same) if same.bytes == object.bytes => Arc::clone(same),
                _ => Arc::new(object),
            });
        }
    }
    if state.objects.is_empty() {
        return Ok(state);
    }
    let mut request = Vec::new();
    write_bytes(1, project.as_bytes(), &mut request);
    let infra = connection.call("GetInfra", request.clone().into()).await?;
    state.infra = (!infra.is_empty()).then_some(infra);
    let metadata = connection.call("ListProjectMetadata", request.into()).await?;
    for entry in wire::repeated(&metadata, &[], 1)? {
        if wire::text(entry, &[1])? == project {
            let uuid = wire::text(entry, &[2])?.to_owned();
            state.metadata.push((PROJECT_UUID.to_owned(), uuid));
        }
    }
    Ok(state)
}

/// Sends changes one by one, in their order: Feast's server knows no transactions, so those before one
/// that fails stay.
pub(super) async fn update(connection: &Connection, project: &str, changes: Vec<Change>) -> Result<()> {
    for change in changes {
        let (method, request) = match change {
            Change::Put(object) => (
                format!("Apply{}", apply_name(object.kind)),
                applying(&object, project),
            ),
            Change::Delete(kind, name) => {
                let of_view = kind.is_view();
                let what = if of_view { "FeatureView" } else { calls(kind).0 };
                (format!("Delete{what}"), deleting(&name, Some(project)))
            }
            Change::DeleteProject => ("DeleteProject".to_owned(), deleting(project, None)),
            Change::PutInfra(infra) => {
                let mut request = Vec::new();
                write_bytes(1, &infra, &mut request);
                write_bytes(2, project.as_bytes(), &mut request);
                commit(3, &mut request);
                ("UpdateInfra".to_owned(), request)
            }
            // The server makes versions and the project's UUID itself; there is no call for other keys.
            Change::PutVersion(_) | Change::PutMetadata(..) => continue,
            Change::PutHistory(_) => {
                return Err(Error::unsupported("Feast's registry server keeps no history"));
            }
        };
        connection
            .call(&method, request.into())
            .await
            .map_err(|error| match error.kind() {
                Kind::Unavailable => {
                    error.hint("what was sent before stays; apply again when the server is back")
                }
                _ => error,
            })?;
    }
    Ok(())
}

fn apply_name(kind: ObjectKind) -> &'static str {
    if kind.is_view() {
        "FeatureView"
    } else {
        calls(kind).0
    }
}

/// Requests to apply: the object, its project and that it is meant for good.
fn applying(object: &Object, project: &str) -> Vec<u8> {
    let mut request = Vec::new();
    let number = match object.kind {
        ObjectKind::OnDemandFeatureView => 2,
        ObjectKind::StreamFeatureView => 3,
        ObjectKind::LabelView => 6,
        _ => 1,
    };
    write_bytes(number, &object.bytes, &mut request);
    match object.kind {
        ObjectKind::Project => commit(2, &mut request),
        kind if kind.is_view() => {
            write_bytes(4, project.as_bytes(), &mut request);
            commit(5, &mut request);
        }
        _ => {
            write_bytes(2, project.as_bytes(), &mut request);
            commit(3, &mut request);
        }
    }
    request
}

fn deleting(name: &str, project: Option<&str>) -> Vec<u8> {
    let mut request = Vec::new();
    write_bytes(1, name.as_bytes(), &mut request);
    if let Some(project) = project {
        write_bytes(2, project.as_bytes(), &mut request);
    }
    commit(if project.is_some() { 3 } else { 2 }, &mut request);
    request
}

/// A field that is `true`.
fn commit(number: u32, request: &mut Vec<u8>) {
    const VARINT: u32 = 0;
    prost::encoding::encode_varint(u64::from(number << 3 | VARINT), request);
    prost::encoding::encode_varint(1, request);
}
