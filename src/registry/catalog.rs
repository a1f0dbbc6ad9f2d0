//! [`Catalog`]: an immutable, typed snapshot of one project, made once per revision and shared by all
//! readers. It does no I/O; `crate::registry::Registry` swaps it.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use super::store::ProjectState;
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

/// One project at one revision. What the store keeps is shared with it, and what was typed once is shared
/// with the catalog before: a new catalog costs what has changed, not what is there.
#[derive(Debug, Default)]
pub struct Catalog {
    /// Grows with every catalog made in this process; plans are cached under it.
    pub generation: u64,
    state: Arc<ProjectState>,
    objects: BTreeMap<ObjectKind, Vec<Arc<Object>>>,
    views: HashMap<String, View>,
    services: HashMap<String, Arc<core::FeatureService>>,
    entities: HashMap<String, Arc<core::EntitySpecV2>>,
}

/// The typed form of one object, where readers want one.
enum Typed {
    View(View),
    Service(Arc<core::FeatureService>),
    Entity(Arc<core::EntitySpecV2>),
    Untyped,
}

impl Catalog {
    /// Types every object of the state that `before` does not have.
    ///
    /// # Errors
    /// `Internal`, naming the object, when stored bytes are malformed.
    pub fn new(state: Arc<ProjectState>, before: Option<&Self>, generation: u64) -> Result<Self> {
        let mut catalog = Self {
            generation,
            ..Self::default()
        };
        for object in state.objects.iter() {
            let known = before.and_then(|before| before.typed(object));
            let typed = match known {
                Some(typed) => typed,
                None => Typed::of(object)?,
            };
            match typed {
                Typed::View(view) => drop(catalog.views.insert(object.name.clone(), view)),
                Typed::Service(service) => drop(catalog.services.insert(object.name.clone(), service)),
                Typed::Entity(entity) => drop(catalog.entities.insert(object.name.clone(), entity)),
                Typed::Untyped => {}
            }
            catalog
                .objects
                .entry(object.kind)
                .or_default()
                .push(Arc::clone(object));
        }
        catalog.state = state;
        Ok(catalog)
    }

    /// What was made of this very object, if it is in this catalog.
    fn typed(&self, object: &Arc<Object>) -> Option<Typed> {
        let own = self.state.object(object.kind, &object.name)?;
        if !Arc::ptr_eq(own, object) {
            return None;
        }
        let name = &object.name;
        Some(match object.kind {
            kind if kind.is_view() => Typed::View(self.views.get(name)?.clone()),
            ObjectKind::FeatureService => Typed::Service(Arc::clone(self.services.get(name)?)),
            ObjectKind::Entity => Typed::Entity(Arc::clone(self.entities.get(name)?)),
            _ => Typed::Untyped,
        })
    }

    /// The project's name.
    pub fn project(&self) -> &str {
        &self.state.project
    }

    /// What the store keeps, as it was typed.
    pub fn state(&self) -> &Arc<ProjectState> {
        &self.state
    }

    /// The objects of a kind, in the store's order.
    pub fn objects(&self, kind: ObjectKind) -> &[Arc<Object>] {
        self.objects.get(&kind).map_or(&[], Vec::as_slice)
    }

    /// The object of that kind and name.
    pub fn object(&self, kind: ObjectKind, name: &str) -> Option<&Arc<Object>> {
        self.state.object(kind, name)
    }

    /// The object of that kind and name.
    ///
    /// # Errors
    /// The kind's not-found error.
    pub fn require(&self, kind: ObjectKind, name: &str) -> Result<&Arc<Object>> {
        self.object(kind, name)
            .ok_or_else(|| kind.not_found(name, self.project()))
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
            _ => Err(ObjectKind::FeatureView.not_found(name, self.project())),
        }
    }

    /// The feature view, stream feature view or label view as it was at a version.
    ///
    /// # Errors
    /// `FeatureViewVersionNotFound`, or `Internal` when the stored bytes are malformed.
    pub fn view_version(&self, name: &str, version: u32) -> Result<FeatureView> {
        let stored = self
            .state
            .versions
            .iter()
            .find(|v| v.view == name && v.number == version);
        let stored = stored.ok_or_else(|| {
            let message = format!("feature view `{name}` has no version `{version}`");
            Error::new(Kind::FeatureViewVersionNotFound, message)
        })?;
        FeatureView::from_object(&Object {
            kind: stored.kind,
            project: self.project().to_owned(),
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
            .ok_or_else(|| ObjectKind::FeatureService.not_found(name, self.project()))
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

impl Typed {
    fn of(object: &Object) -> Result<Self> {
        Ok(match object.kind {
            ObjectKind::FeatureView | ObjectKind::StreamFeatureView | ObjectKind::LabelView => {
                Self::View(View::Stored(Arc::new(FeatureView::from_object(object)?)))
            }
            ObjectKind::OnDemandFeatureView => Self::View(View::OnDemand(Arc::new(
                OnDemandFeatureView::from_object(object)?,
            ))),
            ObjectKind::FeatureService => Self::Service(Arc::new(object.decode()?)),
            ObjectKind::Entity => {
                let spec = object.decode::<core::Entity>()?.spec.unwrap_or_default();
                Self::Entity(Arc::new(spec))
            }
            _ => Self::Untyped,
        })
    }
}
