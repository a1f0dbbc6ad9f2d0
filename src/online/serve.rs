//! Getting online features: a planned request's keys are encoded, every view is read in one go, and
//! on-demand views are computed on top. How requests and answers look on a wire is the surfaces' business.

mod response;

use std::{collections::HashMap, sync::Arc, time::Instant};

use bytes::Bytes;
use chrono::Utc;
use foldhash::fast::RandomState;
use tracing::Instrument as _;

pub use response::{Column, Response, Status, Stored};

use super::{
    feature_log::FeatureLog,
    plan::{self, Group, OnDemand, Plan, Plans, RequestColumn, Role, Settings, Shape, Source, Wanted},
    precompute,
    store::{KeyGroup, OnlineRead, OnlineStore, RowBatch},
};
use crate::{
    config::{Config, TtlMode, UnknownEntity},
    context::Context,
    error::{Error, Kind, Result},
    metrics::{Metrics, ViewStatus},
    model::{
        ValueType,
        value::{self, Value},
    },
    registry::Registry,
    telemetry::SPANS,
    transform::{Cells, Input, Occasion, Transformer},
};

/// A request for online features.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    pub wanted: Wanted<'a>,
    pub full_names: bool,
    /// Whether the answer names the versions of the views read.
    pub version_metadata: bool,
    /// Columns of entity values and request data, in the caller's order.
    pub columns: Vec<(String, Given)>,
}

impl Request<'_> {
    /// The number of entity rows.
    pub fn rows(&self) -> usize {
        self.columns.first().map_or(0, |(_, values)| values.len())
    }
}

/// The values of a request's column.
#[derive(Debug, Clone)]
pub enum Given {
    Json(Vec<serde_json::Value>),
    Typed(Vec<Value>),
}

impl Given {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Json(values) => values.len(),
            Self::Typed(values) => values.len(),
        }
    }

    /// The values in a declared type; of an unknown type when none is declared.
    pub(super) fn convert(&self, name: &str, value_type: ValueType) -> Result<Vec<Value>> {
        let json = |json: &serde_json::Value| value::json::from_json(json, value_type);
        let converted = match self {
            Self::Json(values) => values.iter().map(json).collect::<Result<Vec<_>>>(),
            Self::Typed(values) => values
                .iter()
                .map(|known| {
                    let same = value_type == ValueType::Unknown || value::value_type(known) == value_type;
                    if same {
                        Ok(known.clone())
                    } else {
                        json(&value::json::to_json(known))
                    }
                })
                .collect(),
        };
        converted.map_err(|error| error.context(format!("column `{name}`")))
    }
}

/// Serves a registry's features from an online store; keeps the plans of requests it has seen.
#[derive(Clone)]
pub struct Server {
    /// The project of requests that name none.
    pub project: Arc<str>,
    pub registry: Arc<Registry>,
    pub store: Arc<dyn OnlineStore>,
    pub transformer: Arc<Transformer>,
    pub metrics: Arc<Metrics>,
    pub settings: Settings,
    pub ttl_mode: TtlMode,
    pub unknown_entity: UnknownEntity,
    /// Where [`Server::serve`] logs what services answer; `None`: nowhere.
    pub log: Option<Arc<FeatureLog>>,
    plans: Arc<Plans>,
}

/// Answers one request, without keeping its plan.
///
/// # Errors
/// As [`Server::get`].
pub async fn get_online_features(context: &Context, request: Request<'_>) -> Result<Response> {
    Server::new(context).get(request).await
}

/// The part of the configuration that plans depend on.
pub fn settings(config: &Config) -> Settings {
    Settings {
        key_version: super::store::kind::key_version(&config.online_store, config.entity_key_version),
        versioning: config.registry.enable_online_versioning,
    }
}

impl Server {
    /// A server of the context's stores, without plans yet.
    pub fn new(context: &Context) -> Self {
        Self::from_parts(
            &context.config.project,
            Arc::clone(&context.registry),
            Arc::clone(&context.online),
            Arc::clone(&context.transformer),
            Arc::clone(&context.metrics),
            settings(&context.config),
            (context.config.thali.ttl_mode, context.config.thali.unknown_entity),
        )
        .logged(context.feature_log.clone())
    }

    /// The server with this log.
    #[must_use]
    pub fn logged(mut self, log: Option<Arc<FeatureLog>>) -> Self {
        self.log = log;
        self
    }

    /// A server of these stores, without plans yet.
    pub fn from_parts(
        project: &str,
        registry: Arc<Registry>,
        store: Arc<dyn OnlineStore>,
        transformer: Arc<Transformer>,
        metrics: Arc<Metrics>,
        settings: Settings,
        (ttl_mode, unknown_entity): (TtlMode, UnknownEntity),
    ) -> Self {
        Self {
            project: project.into(),
            registry,
            store,
            transformer,
            settings,
            ttl_mode,
            unknown_entity,
            log: None,
            plans: Arc::new(Plans::counted(&metrics)),
            metrics,
        }
    }

    /// Answers a caller of the feature server: as [`Server::get`], and where the service asks for it the
    /// answer is logged under the request's id.
    ///
    /// # Errors
    /// As [`Server::get`].
    pub async fn serve(&self, request: Request<'_>, id: Option<&str>) -> Result<Arc<Response>> {
        let response = Arc::new(self.get(request).await?);
        if let (Some(log), Some(layout)) = (&self.log, response.plan_log()) {
            log.offer(layout, &response, id);
        }
        Ok(response)
    }

    /// Answers a request in the configured project.
    ///
    /// # Errors
    /// The caller's mistakes as 4xx kinds, found before the store is asked; what the store returns.
    pub async fn get(&self, request: Request<'_>) -> Result<Response> {
        self.get_from(&self.project, request).await
    }

    /// Answers a request in any project of the registry.
    ///
    /// # Errors
    /// As [`Server::get`].
    pub async fn get_from(&self, project: &str, request: Request<'_>) -> Result<Response> {
        let rows = request.rows();
        let span = tracing::info_span!(target: SPANS, "retrieval", project, rows);
        self.answer(project, request).instrument(span).await
    }

    async fn answer(&self, project: &str, request: Request<'_>) -> Result<Response> {
        let catalog = self.registry.catalog(project).await?;
        let version_metadata = request.version_metadata;
        let shape = Shape {
            wanted: request.wanted,
            full_names: request.full_names,
        };
        let plan = self.plans.get(&catalog, shape, self.settings)?;
        let entities = Entities::new(&plan, &request.columns)?;
        let mut groups = Vec::with_capacity(plan.groups.len());
        let mut rows = Vec::with_capacity(plan.groups.len());
        for group in &plan.groups {
            let (keys, places) = distinct_keys(group, &entities)?;
            groups.push(KeyGroup {
                keys,
                views: Arc::clone(&group.views),
            });
            rows.push(places);
        }
        let reading = OnlineRead {
            project,
            groups: &groups,
        };
        let started = Instant::now();
        let span = tracing::info_span!(target: SPANS, "store read", store = self.store.name());
        let batches = precompute::read(&*self.store, &plan, &reading)
            .instrument(span)
            .await?;
        let read = started.elapsed();
        self.metrics.store_read(self.store.name(), read);
        check_batches(&plan, &groups, &batches)?;
        self.count(&plan, &batches, entities.rows);
        let computed = self.compute(&plan, &entities, &rows, &batches).await?;
        let Entities {
            echoed,
            rows: count,
            keys,
            request,
        } = entities;
        let ttl_mode = match self.ttl_mode {
            // Here, and only here, Feast's Python server looks at ttl.
            TtlMode::Python if plan.precomputed.is_some() => TtlMode::Status,
            mode => mode,
        };
        Ok(Response {
            rows: count,
            echoed,
            places: rows,
            batches,
            computed,
            keys,
            request,
            version_metadata,
            unknown_is_present: plan
                .batches()
                .map(|(_, columns)| match self.unknown_entity {
                    UnknownEntity::Store => self.store.unknown_is_present(&columns.table.view),
                    UnknownEntity::Present => true,
                    UnknownEntity::NotFound => false,
                })
                .collect(),
            ttl_mode,
            now: Utc::now().timestamp_micros(),
            read,
            plan,
        })
    }

    /// Counts the request, its rows, and for every view which of its keys were there.
    #[expect(
        clippy::cast_precision_loss,
        reason = "a histogram takes floats; requests are small"
    )]
    fn count(&self, plan: &Plan, batches: &[RowBatch], rows: usize) {
        self.metrics.online_requests.inc();
        self.metrics.online_entities.observe(rows as f64);
        let counters = plan.counters.get_or_init(|| {
            let counters = plan.batches().map(|(_, view)| {
                ["present", "not_found"].map(|status| {
                    let feature_view = view.table.view.name.clone();
                    let labels = ViewStatus { feature_view, status };
                    self.metrics.online_statuses.get_or_create(&labels).clone()
                })
            });
            counters.collect()
        });
        for ([present, absent], batch) in counters.iter().zip(batches) {
            let there = batch.event_times.iter().flatten().count();
            present.inc_by(there as u64);
            absent.inc_by((batch.rows() - there) as u64);
        }
    }

    /// The outputs of every on-demand view of the plan, by view and feature.
    async fn compute(
        &self,
        plan: &Plan,
        entities: &Entities,
        places: &[Vec<u32>],
        batches: &[RowBatch],
    ) -> Result<Vec<Vec<Vec<Value>>>> {
        let mut computed: Vec<Vec<Vec<Value>>> = Vec::with_capacity(plan.on_demand.len());
        for on_demand in &plan.on_demand {
            let inputs = Inputs {
                plan,
                entities,
                places,
                batches,
                computed: &computed,
            }
            .of(on_demand);
            let span =
                tracing::info_span!(target: SPANS, "transformation", view = on_demand.program.view.name);
            let outputs = self
                .transformer
                .compute(&on_demand.program, &inputs, entities.rows, Occasion::Read)
                .instrument(span)
                .await?;
            computed.push(outputs);
        }
        Ok(computed)
    }
}

/// A request's columns in the types and order the plan wants.
struct Entities {
    rows: usize,
    /// Join keys to answer, in request order.
    echoed: Vec<(String, Arc<Vec<Value>>)>,
    /// By the plan's key columns.
    keys: Vec<Arc<Vec<Value>>>,
    /// By the plan's request columns.
    request: Vec<Vec<Value>>,
}

impl Entities {
    fn new(plan: &Plan, columns: &[(String, Given)]) -> Result<Self> {
        let rows = row_count(plan, columns)?;
        let mut echoed: Vec<(String, Arc<Vec<Value>>)> = Vec::with_capacity(columns.len());
        let mut keys: Vec<Option<Arc<Vec<Value>>>> = vec![None; plan.key_columns.len()];
        let mut request: Vec<Option<Vec<Value>>> = vec![None; plan.request_columns.len()];
        for (name, given) in columns {
            let (answered, values) = match plan.roles.get(name) {
                None => continue,
                Some(Role::Request(index)) => {
                    request[*index] = Some(given.convert(name, plan.request_columns[*index].value_type)?);
                    continue;
                }
                Some(Role::Echo { name: answered }) => {
                    (answered, Arc::new(given.convert(name, ValueType::Unknown)?))
                }
                Some(Role::Key {
                    name: answered,
                    columns,
                }) => {
                    let mut first = None;
                    for &index in columns {
                        let values = Arc::new(given.convert(name, plan.key_columns[index].value_type)?);
                        refuse_nulls(name, &values)?;
                        keys[index] = Some(Arc::clone(&values));
                        first.get_or_insert(values);
                    }
                    (answered, first.unwrap_or_default())
                }
            };
            if echoed.iter().any(|(known, _)| known == answered) {
                return Err(Error::invalid(format!(
                    "join key `{answered}` is given twice, by its own and by its entity's name"
                ))
                .hint(format!("keep the column `{answered}` only")));
            }
            echoed.push((answered.clone(), values));
        }
        let missing: Vec<&RequestColumn> = plan
            .request_columns
            .iter()
            .zip(&request)
            .filter(|(_, given)| given.is_none())
            .map(|(c, _)| c)
            .collect();
        refuse_missing_request_data(&missing)?;
        refuse_missing_keys(plan, &keys, columns)?;
        Ok(Self {
            rows,
            echoed,
            keys: keys.into_iter().flatten().collect(),
            request: request.into_iter().flatten().collect(),
        })
    }
}

/// The number of rows: the one length of all columns, or one when there are none.
fn row_count(plan: &Plan, columns: &[(String, Given)]) -> Result<usize> {
    let Some((first, given)) = columns.first() else {
        // Without any column there is still one thing to ask: views that need no entity.
        return Ok(1);
    };
    let rows = given.len();
    if let Some((other, given)) = columns.iter().find(|(_, given)| given.len() != rows) {
        return Err(Error::invalid(format!(
            "all entity columns must have the same number of values: `{first}` has {rows}, `{other}` has {}",
            given.len()
        )));
    }
    if rows == 0 {
        let wanted = plan
            .key_columns
            .first()
            .map_or(first.as_str(), |column| column.name.as_str());
        return Err(Error::invalid(format!(
            "no entity rows: column `{wanted}` is empty"
        )));
    }
    Ok(rows)
}

fn refuse_nulls(name: &str, values: &[Value]) -> Result<()> {
    match values.iter().position(value::is_null) {
        None => Ok(()),
        Some(row) => Err(Error::invalid(format!("join key `{name}` is null in row {row}"))
            .hint("every entity row needs a value for each of its join keys")),
    }
}

fn refuse_missing_request_data(missing: &[&RequestColumn]) -> Result<()> {
    if missing.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = missing.iter().map(|column| column.name.as_str()).collect();
    let names = names.join("`, `");
    Err(Error::new(
        Kind::RequestDataNotFound,
        format!("request data `{names}` is missing from the entity rows"),
    )
    .hint("send these columns along under `entities`; an on demand feature view computes with them"))
}

fn refuse_missing_keys(
    plan: &Plan,
    keys: &[Option<Arc<Vec<Value>>>],
    given: &[(String, Given)],
) -> Result<()> {
    let mut missing: Vec<&str> = Vec::new();
    let mut view = "";
    for (column, _) in plan
        .key_columns
        .iter()
        .zip(keys)
        .filter(|(_, values)| values.is_none())
    {
        if missing.is_empty() {
            view = &column.view;
        }
        if !missing.contains(&column.name.as_str()) {
            missing.push(&column.name);
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let given: Vec<&str> = given.iter().map(|(name, _)| name.as_str()).collect();
    let given = if given.is_empty() {
        "nothing was given".to_owned()
    } else {
        format!("given were `{}`", given.join("`, `"))
    };
    Err(Error::new(
        Kind::EntityColumnsMissing,
        format!(
            "join key `{}` of feature view `{view}` is missing from the entity rows",
            missing.join("`, `")
        ),
    )
    .hint(given))
}

/// The distinct keys of a group, and for every row which of them is its own.
fn distinct_keys(group: &Group, entities: &Entities) -> Result<(Vec<Bytes>, Vec<u32>)> {
    let mut encoder = group.encoder.clone();
    if group.columns.is_empty() {
        let dummy: Value = value::Kind::StringVal(String::new()).into();
        return Ok((vec![encoder.encode(&[&dummy])?], vec![0; entities.rows]));
    }
    let mut keys = Vec::with_capacity(entities.rows);
    let mut places = Vec::with_capacity(entities.rows);
    let mut known: HashMap<Bytes, u32, RandomState> =
        HashMap::with_capacity_and_hasher(entities.rows, RandomState::default());
    let mut row_values: Vec<&Value> = Vec::with_capacity(group.columns.len());
    for row in 0..entities.rows {
        row_values.clear();
        row_values.extend(group.columns.iter().map(|&column| &entities.keys[column][row]));
        let key = encoder.encode(&row_values)?;
        let next =
            u32::try_from(keys.len()).map_err(|_| Error::invalid("too many entity rows in one request"))?;
        let place = *known.entry(key.clone()).or_insert(next);
        if place == next {
            keys.push(key);
        }
        places.push(place);
    }
    Ok((keys, places))
}

/// The rest of serving indexes into the batches, so a store that breaks its promise is caught here.
fn check_batches(plan: &Plan, groups: &[KeyGroup], batches: &[RowBatch]) -> Result<()> {
    let expected = plan
        .batches()
        .map(|(group, view)| (groups[group].keys.len(), view.features.len()));
    let fits = |batch: &RowBatch, (keys, width)| batch.has_shape(keys, width);
    let count = plan.batches().count();
    if batches.len() == count
        && batches
            .iter()
            .zip(expected)
            .all(|(batch, shape)| fits(batch, shape))
    {
        return Ok(());
    }
    Err(Error::internal(
        "the online store answered with other rows than were asked for",
    ))
}

/// Everything inputs of on-demand views are taken from.
struct Inputs<'a> {
    plan: &'a Plan,
    entities: &'a Entities,
    places: &'a [Vec<u32>],
    batches: &'a [RowBatch],
    computed: &'a [Vec<Vec<Value>>],
}

impl<'a> Inputs<'a> {
    fn of(&self, on_demand: &'a OnDemand) -> Vec<Input<'a>> {
        let groups: Vec<usize> = self.plan.batches().map(|(group, _)| group).collect();
        let input = |input: &'a plan::Input| Input {
            name: input.name.as_str().into(),
            value_type: input.value_type,
            cells: match (input.same, input.source) {
                (Some(other), _) => Cells::Same(other),
                (None, Source::Key(column)) => Cells::Values(self.entities.keys[column].as_slice().into()),
                (None, Source::Request(column)) => {
                    Cells::Values(self.entities.request[column].as_slice().into())
                }
                (None, Source::Computed { view, feature }) => {
                    Cells::Values(self.computed[view][feature].as_slice().into())
                }
                (None, Source::Stored(slot)) => {
                    let batch = &self.batches[slot.batch];
                    let cell = |&place: &u32| batch.get(place as usize, slot.feature);
                    Cells::Encoded(self.places[groups[slot.batch]].iter().map(cell).collect())
                }
            },
        };
        on_demand.inputs.iter().map(input).collect()
    }
}

#[cfg(test)]
mod tests;
