//! [`Catalog`]: an immutable, typed snapshot of one project, made once per revision and shared by all
//! readers. It does no I/O; `crate::registry::Registry` swaps it.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use chrono::{DateTime, Utc};

use super::store::{ProjectState, Revision, ViewVersion};
use crate::{
    error::{Error, Kind, Result},
    model::{FeatureView, Object, ObjectKind, OnDemandFeatureView},
    proto::feast::core,
};

/// A view of any kind, typed.
#[derive(Debug, Clone)]
pub enum View {
    /// Feature view, stream feature view or label view.
    Stored(Arc<FeatureView>),
    OnDemand(Arc<OnDemandFeatureView>),
}

/// One project at one revision.
#[derive(Debug, Default)]
pub struct Catalog {
    pub project: String,
    pub revision: Revision,
    pub last_updated: Option<DateTime<Utc>>,
    /// Grows with every catalog made in this process; plans are cached under it.
    pub generation: u64,
    objects: BTreeMap<ObjectKind, Vec<Arc<Object>>>,
    by_name: HashMap<(ObjectKind, String), Arc<Object>>,
    views: HashMap<String, View>,
    services: HashMap<String, Arc<core::FeatureService>>,
    entities: HashMap<String, Arc<core::EntitySpecV2>>,
    pub infra: bytes::Bytes,
    pub versions: Vec<ViewVersion>,
    pub metadata: Vec<(String, String)>,
}

impl Catalog {
    /// Types every object of the state.
    ///
    /// # Errors
    /// `Internal`, naming the object, when stored bytes are malformed.
    pub fn new(state: ProjectState, generation: u64) -> Result<Self> {
        let mut catalog = Self {
            project: state.project,
            revision: state.revision,
            last_updated: state.last_updated,
            generation,
            infra: state.infra.unwrap_or_default(),
            versions: state.versions,
            metadata: state.metadata,
            ..Self::default()
        };
        for object in state.objects {
            catalog.insert(Arc::new(object))?;
        }
        Ok(catalog)
    }

    fn insert(&mut self, object: Arc<Object>) -> Result<()> {
        match object.kind {
            ObjectKind::FeatureView | ObjectKind::StreamFeatureView | ObjectKind::LabelView => {
                let view = View::Stored(Arc::new(FeatureView::from_object(&object)?));
                self.views.insert(object.name.clone(), view);
            }
            ObjectKind::OnDemandFeatureView => {
                let view = View::OnDemand(Arc::new(OnDemandFeatureView::from_object(&object)?));
                self.views.insert(object.name.clone(), view);
            }
            ObjectKind::FeatureService => {
                self.services
                    .insert(object.name.clone(), Arc::new(object.decode()?));
            }
            ObjectKind::Entity => {
                let spec = object.decode::<core::Entity>()?.spec.unwrap_or_default();
                self.entities.insert(object.name.clone(), Arc::new(spec));
            }
            _ => {}
        }
        self.by_name
            .insert((object.kind, object.name.clone()), Arc::clone(&object));
        self.objects.entry(object.kind).or_default().push(object);
        Ok(())
    }

    /// The objects of a kind, in the store's order.
    pub fn objects(&self, kind: ObjectKind) -> &[Arc<Object>] {
        self.objects.get(&kind).map_or(&[], Vec::as_slice)
    }

    /// The object of that kind and name.
    pub fn object(&self, kind: ObjectKind, name: &str) -> Option<&Arc<Object>> {
        self.by_name.get(&(kind, name.to_owned()))
    }

    /// The object of that kind and name.
    ///
    /// # Errors
    /// The kind's not-found error.
    pub fn require(&self, kind: ObjectKind, name: &str) -> Result<&Arc<Object>> {
        self.object(kind, name)
            .ok_or_else(|| kind.not_found(name, &self.project))
    }

    /// The view of any kind with that name.
    pub fn view(&self, name: &str) -> Option<&View> {
        self.views.get(name)
    }

    /// All views, unordered.
    pub fn views(&self) -> impl Iterator<Item = &View> {
        self.views.values()
    }

    /// The feature view, stream feature view or label view with that name.
    ///
    /// # Errors
    /// `FeatureViewNotFound`.
    pub fn stored_view(&self, name: &str) -> Result<&Arc<FeatureView>> {
        match self.views.get(name) {
            Some(View::Stored(view)) => Ok(view),
            _ => Err(ObjectKind::FeatureView.not_found(name, &self.project)),
        }
    }

    /// The feature view, stream feature view or label view as it was at a version.
    ///
    /// # Errors
    /// `FeatureViewVersionNotFound`, or `Internal` when the stored bytes are malformed.
    pub fn view_version(&self, name: &str, version: u32) -> Result<FeatureView> {
        let stored = self
            .versions
            .iter()
            .find(|v| v.view == name && v.number == version);
        let stored = stored.ok_or_else(|| {
            let message = format!("feature view `{name}` has no version `{version}`");
            Error::new(Kind::FeatureViewVersionNotFound, message)
        })?;
        FeatureView::from_object(&Object {
            kind: stored.kind,
            project: self.project.clone(),
            name: name.to_owned(),
            bytes: stored.bytes.clone(),
        })
    }

    /// Feature views, stream feature views and label views, sorted by name.
    pub fn stored_views(&self) -> Vec<&Arc<FeatureView>> {
        let mut views: Vec<_> = self
            .views
            .values()
            .filter_map(|view| match view {
                View::Stored(view) => Some(view),
                View::OnDemand(_) => None,
            })
            .collect();
        views.sort_by(|a, b| a.name.cmp(&b.name));
        views
    }

    /// The feature service with that name.
    ///
    /// # Errors
    /// `FeatureServiceNotFound`.
    pub fn service(&self, name: &str) -> Result<&Arc<core::FeatureService>> {
        self.services
            .get(name)
            .ok_or_else(|| ObjectKind::FeatureService.not_found(name, &self.project))
    }

    /// The entity with that name.
    pub fn entity(&self, name: &str) -> Option<&Arc<core::EntitySpecV2>> {
        self.entities.get(name)
    }

    /// All entities by name, unordered.
    pub fn entities(&self) -> impl Iterator<Item = (&String, &Arc<core::EntitySpecV2>)> {
        self.entities.iter()
    }
}
