//! The calls that change the registry. All of them answer `google.protobuf.Empty`, which has no bytes.

use bytes::Bytes;
use prost::Message;

use super::Server;
use crate::{
    error::{Error, Result},
    model::{Interval, ObjectKind, feature_view},
    proto::feast::registry::{DeleteEntityRequest, DeleteProjectRequest},
    registry::{
        envelopes::{
            self, ApplyFeatureViewRequest, ApplyMaterializationRequest, ApplyProjectRequest, ApplyRequest,
        },
        store::history::Author,
    },
};

impl Server {
    pub(super) async fn apply(&self, kind: ObjectKind, request: Bytes) -> Result<Bytes> {
        let request = ApplyRequest::decode(request)?;
        self.put(kind, &request.project, request.object).await
    }

    pub(super) async fn apply_project(&self, request: Bytes) -> Result<Bytes> {
        let request = ApplyProjectRequest::decode(request)?;
        self.put(ObjectKind::Project, "", request.object).await
    }

    pub(super) async fn apply_view(&self, request: Bytes) -> Result<Bytes> {
        let request = ApplyFeatureViewRequest::decode(request)?;
        let sent = [
            (ObjectKind::FeatureView, request.feature_view),
            (ObjectKind::OnDemandFeatureView, request.on_demand_feature_view),
            (ObjectKind::StreamFeatureView, request.stream_feature_view),
            (ObjectKind::LabelView, request.label_view),
        ];
        let (kind, bytes) = sent
            .into_iter()
            .find_map(|(kind, bytes)| Some((kind, bytes?)))
            .ok_or_else(|| Error::invalid("the request holds no view of a kind known here"))?;
        self.put(kind, &request.project, bytes).await
    }

    async fn put(&self, kind: ObjectKind, project: &str, bytes: Bytes) -> Result<Bytes> {
        if kind != ObjectKind::Project {
            require_project(project)?;
        }
        self.changes
            .apply(envelopes::object(kind, project, bytes)?, &author())
            .await?;
        Ok(Bytes::new())
    }

    pub(super) async fn delete(&self, kind: ObjectKind, request: Bytes) -> Result<Bytes> {
        let (name, project) = if kind == ObjectKind::Project {
            let name = DeleteProjectRequest::decode(request)?.name;
            (name.clone(), name)
        } else {
            let request = DeleteEntityRequest::decode(request)?;
            (request.name, request.project)
        };
        self.changes.delete(kind, &project, &name, &author()).await?;
        Ok(Bytes::new())
    }

    pub(super) async fn delete_view(&self, request: Bytes) -> Result<Bytes> {
        let request = DeleteEntityRequest::decode(request)?;
        self.changes
            .delete_view(&request.project, &request.name, &author())
            .await?;
        Ok(Bytes::new())
    }

    pub(super) async fn apply_materialization(&self, request: Bytes) -> Result<Bytes> {
        let request = ApplyMaterializationRequest::decode(request)?;
        require_project(&request.project)?;
        let view = envelopes::object(ObjectKind::FeatureView, &request.project, request.feature_view)?;
        let time = |at: Option<&prost_types::Timestamp>, field: &str| {
            at.and_then(feature_view::timestamp).ok_or_else(|| {
                Error::invalid(format!(
                    "`{field}` of the materialization is missing or out of range"
                ))
            })
        };
        let interval = Interval {
            start: time(request.start_date.as_ref(), "start_date")?,
            end: time(request.end_date.as_ref(), "end_date")?,
        };
        self.changes
            .materialized(&request.project, &view.name, interval)
            .await?;
        Ok(Bytes::new())
    }

    pub(super) async fn update_infra(&self, request: Bytes) -> Result<Bytes> {
        let request = ApplyRequest::decode(request)?;
        require_project(&request.project)?;
        self.changes.put_infra(&request.project, request.object).await?;
        Ok(Bytes::new())
    }
}

/// Callers do not say who they are.
fn author() -> Author {
    Author::anonymous("gRPC")
}

fn require_project(project: &str) -> Result<()> {
    match project.is_empty() {
        true => Err(Error::invalid("the request names no project")),
        false => Ok(()),
    }
}
