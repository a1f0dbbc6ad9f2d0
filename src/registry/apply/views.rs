//! What happens to a view besides its definition: materialized intervals, state, being enabled.

use chrono::{DateTime, Utc};
use prost::Message;

use super::merge::{add_interval, disabled_path, has_intervals, state_path};
use crate::{
    error::{Error, Kind, Result},
    model::{
        Interval, Object, ObjectKind,
        wire::{self, Put},
    },
    proto::feast::core::{FeatureViewState, MaterializationInterval},
    registry::{
        Registry,
        store::{Change, ProjectState, history::Author, proto_time},
    },
};

impl Registry {
    /// Records that a window was materialized, and that the view is available online. Windows are never
    /// merged, as in Feast.
    ///
    /// # Errors
    /// `FeatureViewNotFound`; `InvalidArgument` for views that are not materialized.
    pub async fn record_materialization(&self, project: &str, view: &str, interval: Interval) -> Result<()> {
        // Runs are told of by the ledger of jobs; a definition does not change by them.
        self.edit_view(project, view, None, |object| {
            if !has_intervals(object.kind) {
                return Err(Error::invalid(format!(
                    "Cannot apply materialization for feature {view} of type {}",
                    object.kind.label()
                )));
            }
            let interval = MaterializationInterval {
                start_time: Some(proto_time(interval.start)),
                end_time: Some(proto_time(interval.end)),
            };
            object.bytes = add_interval(&object.bytes, &interval)?;
            put_state(object, FeatureViewState::AvailableOnline)
        })
        .await
    }

    /// Moves a view to another state of its life.
    ///
    /// # Errors
    /// `FeatureViewNotFound`; `InvalidArgument` when there is no way from its present state to that one.
    pub async fn set_state(
        &self,
        project: &str,
        view: &str,
        state: FeatureViewState,
        author: &Author,
    ) -> Result<()> {
        self.edit_view(project, view, Some(author), |object| {
            let present = present_state(object)?;
            if !followers(present).contains(&state) {
                return Err(no_way(present, state));
            }
            put_state(object, state)
        })
        .await
    }

    /// Lets a view be served and materialized, or stops that.
    ///
    /// # Errors
    /// `FeatureViewNotFound`; `InvalidArgument` for label views, which cannot be disabled.
    pub async fn set_enabled(&self, project: &str, view: &str, enabled: bool, author: &Author) -> Result<()> {
        self.edit_view(project, view, Some(author), |object| {
            let path = disabled_path(object.kind)
                .ok_or_else(|| Error::invalid(format!("a {} cannot be disabled", object.kind.label())))?;
            let put = Put::number(u64::from(!enabled));
            object.bytes = wire::set(&object.bytes, path, put)?.into();
            Ok(())
        })
        .await
    }

    async fn edit_view(
        &self,
        project: &str,
        view: &str,
        author: Option<&Author>,
        edit: impl Fn(&mut Object) -> Result<()> + Send + Sync,
    ) -> Result<()> {
        let mut decide = |state: &ProjectState| {
            let stored = ObjectKind::VIEWS
                .iter()
                .find_map(|kind| state.object(*kind, view));
            let stored = stored.ok_or_else(|| ObjectKind::FeatureView.not_found(view, project))?;
            let mut object = Object::clone(stored);
            edit(&mut object)?;
            if object.bytes == stored.bytes {
                return Ok(Vec::new());
            }
            touch(&mut object, Utc::now())?;
            Ok(vec![Change::Put(object)])
        };
        self.update(project, author, &mut decide).await.map(drop)
    }
}

fn touch(object: &mut Object, now: DateTime<Utc>) -> Result<()> {
    if let Some([_, updated]) = object.kind.time_paths() {
        object.bytes = wire::set(
            &object.bytes,
            updated,
            Put::Bytes(&proto_time(now).encode_to_vec()),
        )?
        .into();
    }
    Ok(())
}

fn present_state(view: &Object) -> Result<FeatureViewState> {
    let Some(path) = state_path(view.kind) else {
        return Ok(FeatureViewState::StateUnspecified);
    };
    let number = wire::get(&view.bytes, path)?
        .map(|field| field.varint())
        .transpose()?
        .unwrap_or_default();
    let state = i32::try_from(number)
        .ok()
        .and_then(|number| FeatureViewState::try_from(number).ok());
    Ok(state.unwrap_or_default())
}

fn put_state(view: &mut Object, state: FeatureViewState) -> Result<()> {
    let path = state_path(view.kind).ok_or_else(|| {
        Error::new(
            Kind::InvalidArgument,
            format!("a {} has no state", view.kind.label()),
        )
    })?;
    let number = u64::try_from(state as i32).unwrap_or_default();
    view.bytes = wire::set(&view.bytes, path, Put::number(number))?.into();
    Ok(())
}

/// Feast's life of a view (`feast/feature_view.py`, the table of valid transitions).
fn followers(state: FeatureViewState) -> &'static [FeatureViewState] {
    use FeatureViewState::{AvailableOnline, Created, Generated, Materializing, StateUnspecified};
    match state {
        StateUnspecified => &[Created],
        Created => &[Generated],
        Generated | AvailableOnline => &[Materializing],
        Materializing => &[AvailableOnline, Generated],
    }
}

/// In Feast's words.
fn no_way(from: FeatureViewState, to: FeatureViewState) -> Error {
    let (from_name, to_name) = (from.as_str_name(), to.as_str_name());
    let allowed: Vec<&str> = followers(from)
        .iter()
        .map(FeatureViewState::as_str_name)
        .collect();
    let allowed = allowed.join(", ");
    Error::invalid(format!(
        "Invalid state transition: {from_name} -> {to_name}. Allowed transitions from {from_name}: {allowed}."
    ))
}
