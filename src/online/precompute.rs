//! Precomputed feature vectors: all features of a service for one entity in one stored value, as Feast keeps
//! them for services with `precompute_online` (`feast/feature_store.py`, `precompute_feature_service`).
//!
//! They are made after a materialization for all entities, and after a push or a write through thali for
//! the entities that were written, before it is answered; rows deleted by `thali online` count as written.
//!
//! What is stale for how long: a vector is older than its rows from the moment a materialization stores them
//! until that materialization ends, and for rows that somebody else than thali writes until the next time
//! its entity is made. An entity that has no vector, or one of other features than the service has now, is
//! read from its rows.
//!
//! A service is served this way if all its views have the same entity and none is computed on demand.

use std::{collections::HashSet, sync::Arc};

use bytes::Bytes;
use chrono::Utc;
use prost::Message as _;

use super::{
    plan::{Plan, Settings, Shape, Wanted},
    serve::settings,
    store::{KeyGroup, OlderRow, OnlineRead, OnlineStore, RowBatch, Table, ViewColumns, WriteBatch},
};
use crate::{
    context::Context,
    error::{Error, Kind, Result},
    model::{FeatureView, Field, ObjectKind, ValueType, entity_key, wire},
    proto::feast::core,
    registry::Catalog,
};

/// Entities whose vectors are made together.
const TOGETHER: usize = 1000;

/// The one feature of the view that vectors are stored as.
const VECTOR: &str = "vector";

/// Fields of `PrecomputedFeatureVector`, of `FeatureViewTimestamp`, and of a value that is bytes.
const NAMES: u32 = 1;
const VALUES: u32 = 2;
const TIMES: u32 = 3;
const MADE_AT: u32 = 4;
const TIME_VIEW: u32 = 1;
const TIME_TIME: u32 = 2;
const BYTES: u32 = 1;

/// Where the vectors of a service are stored, and what is in them.
#[derive(Debug)]
pub struct Precomputed {
    /// The one view they are stored as.
    views: Arc<[ViewColumns]>,
    /// The names of the features as a vector of the service begins with them.
    header: Vec<u8>,
    /// The features in that order: in which batch of the plan, and in which column of it.
    features: Vec<(usize, usize)>,
    /// The views as vectors call them, each with its batch.
    times: Vec<(String, usize)>,
}

impl Precomputed {
    /// The vectors of a service whose plan this is, if it is one that is served from vectors.
    pub(super) fn of(service: &core::FeatureService, plan: &Plan) -> Option<Self> {
        let spec = service.spec.as_ref().filter(|spec| spec.precompute_online)?;
        let [group] = &plan.groups[..] else {
            return None;
        };
        if !plan.on_demand.is_empty() {
            return None;
        }
        let mut found = Self {
            views: vec![columns(&spec.name, &group.views.first()?.table.view)].into(),
            header: Vec::new(),
            features: Vec::new(),
            times: Vec::new(),
        };
        let mut covered = HashSet::new();
        for projection in &spec.features {
            let name = match projection.feature_view_name_alias.as_str() {
                "" => &projection.feature_view_name,
                alias => alias,
            };
            for feature in &projection.feature_columns {
                let slot = group.views.iter().enumerate().find_map(|(batch, view)| {
                    let known = view.table.view.name == projection.feature_view_name;
                    let column = view.features.iter().position(|known| *known == feature.name)?;
                    known.then_some((batch, column))
                })?;
                wire::write_bytes(
                    NAMES,
                    format!("{name}__{}", feature.name).as_bytes(),
                    &mut found.header,
                );
                if !found
                    .times
                    .iter()
                    .any(|(known, batch)| known == name && *batch == slot.0)
                {
                    found.times.push((name.to_owned(), slot.0));
                }
                covered.insert(slot);
                found.features.push(slot);
            }
        }
        let all: usize = group.views.iter().map(|view| view.features.len()).sum();
        (covered.len() == all).then_some(found)
    }

    fn table(&self) -> &Table {
        &self.views[0].table
    }

    /// Takes a stored vector apart into a row of the plan's batches; false if it is no vector of these
    /// features, and then nothing of the row is filled.
    fn unpack(&self, value: &[u8], row: usize, batches: &mut [RowBatch]) -> Result<bool> {
        let Some(vector) = wire::get(value, &[BYTES])? else {
            return Ok(false);
        };
        let Some(rest) = vector.content()?.strip_prefix(&self.header[..]) else {
            return Ok(false);
        };
        let mut values = 0;
        for field in wire::fields(rest) {
            match field?.number {
                VALUES => values += 1,
                NAMES => return Ok(false),
                _ => {}
            }
        }
        if values != self.features.len() {
            return Ok(false);
        }
        let mut features = self.features.iter();
        for field in wire::fields(rest) {
            let field = field?;
            match field.number {
                VALUES => {
                    if let Some((batch, column)) = features.next() {
                        batches[*batch].put(row, *column, field.content()?);
                    }
                }
                TIMES => {
                    let time = core::FeatureViewTimestamp::decode(field.content()?)?;
                    let micros = time.event_timestamp.map_or(0, |time| {
                        time.seconds.saturating_mul(1_000_000) + i64::from(time.nanos / 1000)
                    });
                    for (name, batch) in &self.times {
                        if *name == time.feature_view_name {
                            batches[*batch].event_times[row] = Some(micros);
                        }
                    }
                }
                _ => {}
            }
        }
        Ok(true)
    }

    /// The vector of a row, as a value; nothing if no view has the entity.
    fn pack(&self, batches: &[RowBatch], row: usize, made_at: &[u8]) -> Option<Bytes> {
        batches.iter().find(|batch| batch.event_times[row].is_some())?;
        let mut vector = self.header.clone();
        for (batch, column) in &self.features {
            let value = batches[*batch].get(row, *column);
            wire::write_bytes(VALUES, value.unwrap_or_default(), &mut vector);
        }
        for (name, batch) in &self.times {
            if let Some(micros) = batches[*batch].event_times[row] {
                let mut time = Vec::new();
                wire::write_bytes(TIME_VIEW, name.as_bytes(), &mut time);
                wire::write_bytes(TIME_TIME, &timestamp(micros), &mut time);
                wire::write_bytes(TIMES, &time, &mut vector);
            }
        }
        wire::write_bytes(MADE_AT, made_at, &mut vector);
        let mut value = Vec::with_capacity(vector.len() + 8);
        wire::write_bytes(BYTES, &vector, &mut value);
        Some(value.into())
    }
}

/// Reads what a plan wants: vectors where it has them, and rows for the entities that have none.
///
/// # Errors
/// What the store returns.
pub(super) async fn read(
    store: &dyn OnlineStore,
    plan: &Plan,
    read: &OnlineRead<'_>,
) -> Result<Vec<RowBatch>> {
    let (Some(precomputed), [group]) = (&plan.precomputed, read.groups) else {
        return store.read(read).await;
    };
    let vectors = KeyGroup {
        keys: group.keys.clone(),
        views: Arc::clone(&precomputed.views),
    };
    let project = read.project;
    let stored = store
        .read(&OnlineRead {
            project,
            groups: std::slice::from_ref(&vectors),
        })
        .await?;
    let mut batches: Vec<RowBatch> = group
        .views
        .iter()
        .map(|view| RowBatch::empty(group.keys.len(), view.features.len()))
        .collect();
    let mut missing = Vec::new();
    for row in 0..group.keys.len() {
        let vector = stored.first().and_then(|batch| batch.get(row, 0));
        let found = match vector {
            Some(value) => precomputed.unpack(value, row, &mut batches).unwrap_or_default(),
            None => false,
        };
        if !found {
            missing.push(row);
        }
    }
    if missing.is_empty() {
        return Ok(batches);
    }
    let rest = KeyGroup {
        keys: missing.iter().map(|row| group.keys[*row].clone()).collect(),
        views: Arc::clone(&group.views),
    };
    let rows = store
        .read(&OnlineRead {
            project,
            groups: std::slice::from_ref(&rest),
        })
        .await?;
    for (batch, read) in batches.iter_mut().zip(rows) {
        if !read.has_shape(missing.len(), batch.width) {
            return Err(Error::internal(
                "the online store answered with other rows than were asked for",
            ));
        }
        for (place, row) in missing.iter().enumerate() {
            batch.copy_row(*row, &read, place);
        }
    }
    Ok(batches)
}

/// Makes vectors; of a store and the services of a catalog.
#[derive(Clone, Copy)]
pub struct Maker<'a> {
    pub store: &'a dyn OnlineStore,
    pub catalog: &'a Catalog,
    pub settings: Settings,
}

impl<'a> Maker<'a> {
    /// For the context's store.
    pub fn new(context: &'a Context, catalog: &'a Catalog) -> Self {
        Self {
            store: &*context.online,
            catalog,
            settings: settings(&context.config),
        }
    }

    /// Makes the vectors of entities of which rows of a view were just written, in every service that has
    /// the view.
    ///
    /// # Errors
    /// What the store returns; the rows are written all the same, and writing them again makes up for it.
    pub async fn after_write(&self, view: &str, keys: &[Bytes]) -> Result<()> {
        if keys.is_empty() {
            return Ok(());
        }
        for service in self.services_with(&[view])? {
            let plan = self.plan(&service)?;
            if let Some(precomputed) = &plan.precomputed {
                let distinct: HashSet<&Bytes> = keys.iter().collect();
                let distinct: Vec<Bytes> = distinct.into_iter().cloned().collect();
                for keys in distinct.chunks(TOGETHER) {
                    self.make(&plan, precomputed, keys).await.map_err(|error| {
                        error.context(format_args!("vectors of feature service `{service}`"))
                    })?;
                }
            }
        }
        Ok(())
    }

    /// Makes the vectors anew of every service that has a view whose rows were all deleted.
    ///
    /// # Errors
    /// What the store returns.
    pub async fn after_truncate(&self, view: &str) -> Result<()> {
        for service in self.services_with(&[view])? {
            if let Some(precomputed) = &self.plan(&service)?.precomputed {
                let table = precomputed.table();
                let project = self.catalog.project();
                self.store
                    .provision(project, &[Arc::clone(&table.view)], &[])
                    .await?;
                self.store.truncate(project, table).await?;
                self.service(&service).await?;
            }
        }
        Ok(())
    }

    /// Makes all vectors of every service that has one of the views; answers how many, by service. A store
    /// that cannot list its entities is left alone: vectors there are made as entities are written.
    ///
    /// # Errors
    /// What the store returns.
    pub async fn after_materialization(&self, views: &[&str]) -> Result<Vec<(String, u64)>> {
        let mut made = Vec::new();
        for service in self.services_with(views)? {
            match self.service(&service).await {
                Ok(count) => made.push((service, count)),
                Err(error) if error.kind() == Kind::Unsupported => {
                    tracing::warn!(%service, "vectors are not made: {}", error.message());
                }
                Err(error) => return Err(error),
            }
        }
        Ok(made)
    }

    /// Makes the vectors of all entities of a service; answers how many.
    ///
    /// # Errors
    /// `FeatureServiceNotFound`; `InvalidArgument` for a service that is not served from vectors;
    /// `Unsupported` where the store cannot list its entities; what it returns.
    pub async fn service(&self, name: &str) -> Result<u64> {
        let plan = self.plan(name)?;
        let (Some(precomputed), [group]) = (&plan.precomputed, &plan.groups[..]) else {
            return Err(
                Error::invalid(format!("feature service `{name}` is not served from vectors")).hint(
                    "set `precompute_online` on it; its views must have the same entity and none may be computed on demand",
                ),
            );
        };
        let project = self.catalog.project();
        let view = Arc::clone(&precomputed.table().view);
        self.store.provision(project, &[view], &[]).await?;
        let mut seen = HashSet::new();
        let mut count = 0;
        for view in group.views.iter() {
            let mut page = None;
            loop {
                let (keys, next) = self.store.keys(project, &view.table, page).await?;
                let mut new = keys;
                new.retain(|key| seen.insert(entity_key::fingerprint(key)));
                for keys in new.chunks(TOGETHER) {
                    count += self.make(&plan, precomputed, keys).await?;
                }
                if next.is_none() {
                    break;
                }
                page = next;
            }
        }
        Ok(count)
    }

    /// The services with vectors that have one of the views.
    fn services_with(&self, views: &[&str]) -> Result<Vec<String>> {
        let mut names = Vec::new();
        for object in self.catalog.objects(ObjectKind::FeatureService) {
            let service = self.catalog.service(&object.name)?;
            let Some(spec) = service.spec.as_ref().filter(|spec| spec.precompute_online) else {
                continue;
            };
            let mut used = spec.features.iter().map(|used| used.feature_view_name.as_str());
            if used.any(|used| views.contains(&used)) {
                names.push(object.name.clone());
            }
        }
        Ok(names)
    }

    fn plan(&self, service: &str) -> Result<Plan> {
        let shape = Shape {
            wanted: Wanted::service(service),
            full_names: true,
        };
        Plan::new(self.catalog, &shape, self.settings)
    }

    /// Makes the vectors of these entities; those without any row lose theirs.
    async fn make(&self, plan: &Plan, precomputed: &Precomputed, keys: &[Bytes]) -> Result<u64> {
        let [group] = &plan.groups[..] else {
            return Ok(0);
        };
        // Taken before the rows are read: of two makers at once, whoever read later has the later time, so
        // the store keeps what saw more.
        let now = Utc::now().timestamp_micros();
        let made_at = timestamp(now);
        let project = self.catalog.project();
        let wanted = KeyGroup {
            keys: keys.to_vec(),
            views: Arc::clone(&group.views),
        };
        let rows = self
            .store
            .read(&OnlineRead {
                project,
                groups: std::slice::from_ref(&wanted),
            })
            .await?;
        let mut batch = WriteBatch {
            features: vec![VECTOR.to_owned()],
            ..WriteBatch::default()
        };
        let mut gone = Vec::new();
        for (row, key) in keys.iter().enumerate() {
            match precomputed.pack(&rows, row, &made_at) {
                Some(value) => {
                    batch.keys.push(key.clone());
                    batch.event_times.push(now);
                    batch.values.push(value);
                }
                None => gone.push(key.clone()),
            }
        }
        let table = precomputed.table();
        if !gone.is_empty() {
            match self.store.delete(project, table, &gone).await {
                Err(error) if error.kind() != Kind::Unsupported => return Err(error),
                _ => {}
            }
        }
        self.store.write(project, table, &batch, OlderRow::Skip).await?;
        Ok(batch.keys.len() as u64)
    }
}

/// What the vectors of a service are stored as, for entities of a view.
fn columns(service: &str, of: &FeatureView) -> ViewColumns {
    let name = format!("__precomputed__{service}");
    let view = FeatureView {
        kind: ObjectKind::FeatureView,
        name: name.clone(),
        features: vec![Field {
            name: VECTOR.to_owned(),
            value_type: ValueType::Bytes,
            description: String::new(),
            tags: Default::default(),
            vector_index: false,
        }],
        ttl: None,
        batch_source: None,
        stream_source: None,
        intervals: Vec::new(),
        version: 0,
        ..of.clone()
    };
    ViewColumns {
        table: Table {
            view: Arc::new(view),
            name,
        },
        features: [VECTOR.to_owned()].into(),
    }
}

/// An encoded `google.protobuf.Timestamp`.
fn timestamp(micros: i64) -> Vec<u8> {
    prost_types::Timestamp {
        seconds: micros.div_euclid(1_000_000),
        nanos: i32::try_from(micros.rem_euclid(1_000_000) * 1000).unwrap_or_default(),
    }
    .encode_to_vec()
}

#[cfg(test)]
mod tests;
