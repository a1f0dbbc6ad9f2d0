//! Writing features that somebody sends: pushes and direct writes to the online store. All rows of a
//! call are checked and converted before the first is stored.
//!
//! [`write_batch`], the way from Arrow to a store's rows, is for materialization.

mod frame;
mod journal;
mod offline;
mod programs;
mod rows;

use std::{borrow::Cow, sync::Arc};

use arrow::record_batch::RecordBatch;
use chrono::Utc;

pub use frame::Frame;
pub use journal::{Journal, JournalOptions};
pub use rows::{Identities, identities, key_column, write_batch};

use self::{programs::Programs, rows::Rows};
use super::{
    plan::{Settings, stored_form, table_of},
    precompute,
    serve::settings,
    store::{OlderRow, OnlineStore, Table, WriteBatch},
};
use crate::{
    context::Context,
    error::{Error, Kind, Result},
    metrics::{Metrics, PushLabels},
    model::{FeatureView, Field, OnDemandFeatureView, ValueType, on_demand::OnDemandInput},
    offline::store::OfflineStore,
    proto::feast::core::DataSource,
    registry::{Catalog, Registry, View},
    transform::{Cells, Input, Occasion, Transformer},
};

/// Where pushed rows go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    Online,
    Offline,
    Both,
}

impl Target {
    /// Reads Feast's name of a target.
    ///
    /// # Errors
    /// `InvalidArgument` with the names there are.
    pub fn parse(text: &str) -> Result<Self> {
        match text {
            "online" => Ok(Self::Online),
            "offline" => Ok(Self::Offline),
            "online_and_offline" => Ok(Self::Both),
            _ => Err(Error::invalid(format!("`{text}` is no target of a push"))
                .hint("use `online`, `offline` or `online_and_offline`")),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Online => "online",
            Self::Offline => "offline",
            Self::Both => "online_and_offline",
        }
    }
}

/// How a write is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Whether on-demand views compute their outputs from the rows; otherwise the rows hold them.
    pub transform: bool,
    /// Whether to look first if another process has changed the registry.
    pub fresh_registry: bool,
    /// What a row does that is older than the stored one.
    pub older: OlderRow,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            transform: true,
            fresh_registry: false,
            older: OlderRow::Skip,
        }
    }
}

/// Writes rows into a project's views.
#[derive(Clone)]
pub struct Writer {
    pub project: Arc<str>,
    pub registry: Arc<Registry>,
    pub store: Arc<dyn OnlineStore>,
    pub offline: Arc<dyn OfflineStore>,
    /// Where rows for the offline store wait; without one they are appended at once.
    pub journal: Option<Arc<Journal>>,
    pub transformer: Arc<Transformer>,
    pub metrics: Arc<Metrics>,
    pub settings: Settings,
    pub(super) programs: Arc<Programs>,
}

/// What became of a push.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pushed {
    /// Rows stored online; those older than what is there are not.
    pub stored: u64,
    /// Whether rows wait for the offline store: they are on disk, and will be there.
    pub queued: bool,
}

/// Converted rows on their way to the online store.
struct Write {
    table: Table,
    batch: WriteBatch,
}

impl Writer {
    /// A writer to the context's stores.
    pub fn new(context: &Context) -> Self {
        Self {
            project: context.config.project.as_str().into(),
            registry: Arc::clone(&context.registry),
            store: Arc::clone(&context.online),
            offline: Arc::clone(&context.offline),
            journal: context.push_journal.clone(),
            transformer: Arc::clone(&context.transformer),
            metrics: Arc::clone(&context.metrics),
            settings: settings(&context.config),
            programs: Arc::default(),
        }
    }

    /// Writes rows to every view that the push source feeds.
    ///
    /// # Errors
    /// `PushSourceNotFound`; `InvalidArgument` when rows do not fit a view or the source; what the
    /// stores return. The online store is written first: repeating a push that failed half-way is safe
    /// there, while the offline store would keep the rows twice.
    pub async fn push(
        &self,
        source: &str,
        frame: &Frame,
        target: Target,
        options: Options,
    ) -> Result<Pushed> {
        let catalog = self.catalog(options).await?;
        let views = pushed_views(&catalog, source);
        if views.is_empty() {
            return Err(Error::new(
                Kind::PushSourceNotFound,
                format!("Unable to find push source '{source}'."),
            ));
        }
        let mut writes = Vec::new();
        let mut appends: Vec<(Arc<DataSource>, RecordBatch)> = Vec::new();
        for view in &views {
            if target != Target::Offline {
                writes.extend(self.stored_write(view, frame)?);
            }
            if target != Target::Online && frame.rows() > 0 {
                let batch_source = view.batch_source.as_ref().ok_or_else(|| no_source(view))?;
                if !appends.iter().any(|(known, _)| known.name == batch_source.name) {
                    let schema = self.offline.schema(batch_source).await?;
                    let batch = offline::source_batch(frame, batch_source, &schema)?;
                    appends.push((Arc::clone(batch_source), batch));
                }
            }
        }
        let stored = self.store_all(&catalog, &writes, options.older).await?;
        let queued = self.journal.is_some() && !appends.is_empty();
        match &self.journal {
            Some(journal) if queued => journal.put(&appends).await?,
            _ => {
                for (batch_source, batch) in appends {
                    self.offline.append(&batch_source, vec![batch], None).await?;
                }
            }
        }
        let labels = PushLabels {
            push_source: source.to_owned(),
            mode: target.name(),
        };
        self.metrics.pushes.get_or_create(&labels).inc();
        Ok(Pushed { stored, queued })
    }

    /// Writes rows to one view; answers how many were stored.
    ///
    /// # Errors
    /// `ObjectNotFound`; `InvalidArgument` when rows do not fit the view; what the store returns.
    pub async fn write_to_online_store(&self, view: &str, frame: &Frame, options: Options) -> Result<u64> {
        let catalog = self.catalog(options).await?;
        let write = match catalog.view(view) {
            Some(View::Stored(view)) => self.stored_write(view, frame)?,
            Some(View::OnDemand(view)) if view.write_to_online_store => {
                self.computed_write(&catalog, view, frame, options.transform)
                    .await?
            }
            Some(View::OnDemand(_)) => {
                return Err(Error::invalid(format!(
                    "on demand feature view `{view}` is computed when it is read and stores nothing"
                ))
                .hint("set `write_to_online_store` on it, or write to the views it is computed from"));
            }
            None => {
                return Err(Error::new(
                    Kind::ObjectNotFound,
                    format!("Can't recognize feast object with a name {view}"),
                ));
            }
        };
        self.store_all(&catalog, write.as_slice(), options.older).await
    }

    async fn catalog(&self, options: Options) -> Result<Arc<Catalog>> {
        if options.fresh_registry {
            self.registry.fresh_catalog(&self.project).await
        } else {
            self.registry.catalog(&self.project).await
        }
    }

    async fn store_all(&self, catalog: &Catalog, writes: &[Write], older: OlderRow) -> Result<u64> {
        let mut stored = 0;
        for (number, Write { table, batch }) in writes.iter().enumerate() {
            let written = self.store.write(&self.project, table, batch, older).await;
            stored += written.map_err(|error| match number {
                0 => error,
                _ => {
                    let done: Vec<&str> = writes[..number]
                        .iter()
                        .map(|write| write.table.name.as_str())
                        .collect();
                    error.context(format!(
                        "`{}` is written, `{}` is not",
                        done.join("`, `"),
                        table.name
                    ))
                }
            })?;
        }
        let vectors = precompute::Maker {
            store: &*self.store,
            catalog,
            settings: self.settings,
        };
        for Write { table, batch } in writes {
            vectors.after_write(&table.view.name, &batch.keys).await?;
        }
        Ok(stored)
    }

    /// The rows of a stored view, or nothing when there are none.
    fn stored_write(&self, view: &Arc<FeatureView>, frame: &Frame) -> Result<Option<Write>> {
        if frame.rows() == 0 {
            return Ok(None);
        }
        let source = view.batch_source.as_ref().ok_or_else(|| no_source(view))?;
        let names = TimeColumns::of(source);
        let mapped = |name: &str| offline::source_name(source, name);
        require_columns(view, frame, &mapped, &names)?;
        let column = |field: &Field| {
            let given = frame
                .column(&field.name)
                .or_else(|| frame.column(&mapped(&field.name)));
            given.ok_or_else(|| {
                Error::internal(format!("column `{}` went missing while it was read", field.name))
            })
        };
        let keys = if view.is_entityless() {
            Vec::new()
        } else {
            let keys = view
                .join_keys
                .iter()
                .map(|key| column(key)?.values(key.value_type));
            keys.collect::<Result<Vec<_>>>()?
        };
        let features = view
            .features
            .iter()
            .map(|field| column(field)?.encoded(field.value_type));
        let rows = Rows {
            keys,
            features: features.collect::<Result<Vec<_>>>()?,
            event_times: frame.first(&names.event)?.required_times()?,
            created_times: match &names.created {
                Some(created) => frame.first(created)?.times()?,
                None => Vec::new(),
            },
        };
        let batch = rows.assemble(view, self.settings.key_version, false)?;
        let table = Table {
            view: Arc::clone(view),
            name: table_of(&view.name, view.version, self.settings.versioning),
        };
        Ok(Some(Write { table, batch }))
    }

    /// The rows of an on-demand view that is stored; as in Feast their event time is now.
    async fn computed_write(
        &self,
        catalog: &Catalog,
        view: &Arc<OnDemandFeatureView>,
        frame: &Frame,
        transform: bool,
    ) -> Result<Option<Write>> {
        if frame.rows() == 0 {
            return Ok(None);
        }
        let stored = Arc::new(stored_form(view, catalog));
        let features = if transform {
            let inputs = on_demand_inputs(view, &stored, frame)?;
            let program = self.programs.of(view, catalog);
            let outputs = self
                .transformer
                .compute(&program, &inputs, frame.rows(), Occasion::Write)
                .await?;
            outputs
                .iter()
                .map(|column| frame::encode(column))
                .collect::<Result<Vec<_>>>()?
        } else {
            let columns = stored
                .features
                .iter()
                .map(|field| frame.require(&field.name)?.encoded(field.value_type));
            columns.collect::<Result<Vec<_>>>()?
        };
        let keys = stored
            .join_keys
            .iter()
            .filter(|_| !stored.is_entityless())
            .map(|key| frame.require(&key.name)?.values(key.value_type));
        let now = Some(Utc::now().timestamp_micros());
        let rows = Rows {
            keys: keys.collect::<Result<Vec<_>>>()?,
            features,
            event_times: vec![now; frame.rows()],
            created_times: vec![now; frame.rows()],
        };
        let batch = rows.assemble(&stored, self.settings.key_version, false)?;
        let table = Table::of(&stored);
        Ok(Some(Write { table, batch }))
    }
}

/// What the columns of times may be called, best first.
struct TimeColumns {
    event: Vec<String>,
    /// `None` when the source keeps no created time.
    created: Option<Vec<String>>,
}

impl TimeColumns {
    /// The source's own names, before and after its field mapping, or the names Feast's remote client
    /// always uses.
    fn of(source: &DataSource) -> Self {
        let candidates = |own: &str, fallback: &str| {
            let mapped = source
                .field_mapping
                .get(own)
                .cloned()
                .unwrap_or_else(|| own.to_owned());
            vec![own.to_owned(), mapped, fallback.to_owned()]
        };
        Self {
            event: candidates(&source.timestamp_field, "event_timestamp"),
            created: (!source.created_timestamp_column.is_empty())
                .then(|| candidates(&source.created_timestamp_column, "created")),
        }
    }
}

fn no_source(view: &FeatureView) -> Error {
    Error::invalid(format!("feature view `{}` has no batch source", view.name))
        .hint("pushed rows are read by the batch source's column names; give the view one")
}

/// The enabled views fed by a push source, by name.
fn pushed_views(catalog: &Catalog, source: &str) -> Vec<Arc<FeatureView>> {
    use crate::proto::feast::core::data_source::SourceType;
    let fed = |view: &&Arc<FeatureView>| {
        let stream = view.stream_source.as_ref();
        stream.is_some_and(|stream| {
            stream.name == source && stream.r#type == SourceType::PushSource as i32 && view.enabled
        })
    };
    catalog
        .stored_views()
        .into_iter()
        .filter(fed)
        .map(Arc::clone)
        .collect()
}

/// Tells every column that is missing at once.
fn require_columns(
    view: &FeatureView,
    frame: &Frame,
    mapped: &dyn Fn(&str) -> String,
    times: &TimeColumns,
) -> Result<()> {
    let keys = view.join_keys.iter().filter(|_| !view.is_entityless());
    let has = |name: &str| frame.column(name).is_some() || frame.column(&mapped(name)).is_some();
    let mut missing: Vec<&str> = keys
        .chain(&view.features)
        .map(|field| field.name.as_str())
        .filter(|name| !has(name))
        .collect();
    let lacks = |names: &[String]| names.iter().all(|name| frame.column(name).is_none());
    if lacks(&times.event) {
        missing.push(&times.event[0]);
    }
    if let Some(created) = times.created.as_deref().filter(|names| lacks(names)) {
        missing.push(&created[0]);
    }
    if missing.is_empty() {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "rows for feature view `{}` lack the columns `{}`",
        view.name,
        missing.join("`, `")
    ))
    .hint("a write needs the join keys, every feature and the source's timestamp columns"))
}

/// The inputs of an on-demand view taken from sent rows, under the names they have at reading.
fn on_demand_inputs<'a>(
    view: &'a OnDemandFeatureView,
    stored: &'a FeatureView,
    frame: &Frame,
) -> Result<Vec<Input<'a>>> {
    let mut inputs: Vec<Input<'a>> = Vec::new();
    let mut add = |name: Cow<'a, str>, value_type: ValueType, cells: Cells<'a>| -> usize {
        match inputs.iter().position(|input| input.name == name) {
            Some(known) => known,
            None => {
                inputs.push(Input {
                    name,
                    value_type,
                    cells,
                });
                inputs.len() - 1
            }
        }
    };
    for input in &view.inputs {
        match input {
            OnDemandInput::Request { fields, .. } => {
                for field in fields {
                    let values = frame.require(&field.name)?.values(field.value_type)?;
                    add(
                        field.name.as_str().into(),
                        field.value_type,
                        Cells::Values(values.into()),
                    );
                }
            }
            OnDemandInput::View {
                view,
                alias,
                features,
                ..
            } => {
                let prefix = if alias.is_empty() { view } else { alias };
                for field in features {
                    let full = format!("{prefix}__{}", field.name);
                    let column = frame
                        .column(&full)
                        .map_or_else(|| frame.require(&field.name), Ok)?;
                    let values = column.values(field.value_type)?;
                    let place = add(full.into(), field.value_type, Cells::Values(values.into()));
                    add(field.name.as_str().into(), field.value_type, Cells::Same(place));
                }
            }
        }
    }
    for key in stored.join_keys.iter().filter(|_| !stored.is_entityless()) {
        let values = frame.require(&key.name)?.values(key.value_type)?;
        add(
            key.name.as_str().into(),
            key.value_type,
            Cells::Values(values.into()),
        );
    }
    Ok(inputs)
}

#[cfg(test)]
mod tests;
