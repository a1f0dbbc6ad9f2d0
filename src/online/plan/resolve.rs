//! Making a [`Plan`]: names are looked up, views grouped by their keys, inputs of on-demand views added.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, OnceLock},
};

use super::{
    Group, Input, KeyColumn, OnDemand, Output, Plan, RequestColumn, Role, Settings, Shape, Slot, Source,
    Wanted, Written, table_of,
};
use crate::{
    error::{Error, Kind, Result},
    model::{
        FeatureRef, FeatureView, Field, ObjectKind, OnDemandFeatureView, ValueType, entity_key::KeyEncoder,
        feature_view::DUMMY_JOIN_KEY, on_demand::OnDemandInput,
    },
    online::store::{Table, ViewColumns},
    proto::feast::core::FeatureViewProjection,
    registry::{Catalog, View},
    transform::Program,
};

/// One wanted feature, before its view is looked up.
struct Wish<'a> {
    view: &'a str,
    /// What the view is called in full names.
    prefix: String,
    version: Option<u32>,
    feature: &'a str,
    join_key_map: &'a BTreeMap<String, String>,
}

/// A feature view being read, while its features are still collected.
struct Reading {
    view: Arc<FeatureView>,
    table: String,
    /// Store join key, request column and type.
    keys: Vec<(String, String, ValueType)>,
    features: Vec<String>,
}

struct Resolver<'a> {
    catalog: &'a Catalog,
    settings: Settings,
    readings: Vec<Reading>,
    on_demand: Vec<OnDemand>,
    request_columns: Vec<RequestColumn>,
    key_columns: Vec<KeyColumn>,
    stored_outputs: Vec<Output>,
    computed_outputs: Vec<Output>,
    view_versions: Vec<(String, u32)>,
    /// Entity names that requests may use instead of a join key, with that join key's column.
    entity_names: HashMap<String, String>,
}

pub(super) fn resolve(catalog: &Catalog, shape: &Shape<'_>, settings: Settings) -> Result<Plan> {
    let no_map = BTreeMap::new();
    let parsed;
    let service;
    let wishes = match &shape.wanted {
        Wanted::Features(features) => {
            parsed = features
                .iter()
                .map(|text| FeatureRef::parse(text))
                .collect::<Result<Vec<_>>>()?;
            parsed
                .iter()
                .map(|reference| wish(reference, &no_map))
                .collect::<Vec<_>>()
        }
        Wanted::Service(name) => {
            service = catalog.service(name)?;
            let projections = service.spec.as_ref().map_or(&[][..], |spec| &spec.features);
            projections.iter().flat_map(service_wishes).collect()
        }
    };
    if wishes.is_empty() {
        return Err(Error::invalid("the request names no features")
            .hint("list `view:feature` references under `features`, or name a `feature_service`"));
    }
    let mut resolver = Resolver {
        catalog,
        settings,
        readings: Vec::new(),
        on_demand: Vec::new(),
        request_columns: Vec::new(),
        key_columns: Vec::new(),
        stored_outputs: Vec::new(),
        computed_outputs: Vec::new(),
        view_versions: Vec::new(),
        entity_names: HashMap::new(),
    };
    refuse_collisions(&wishes, shape.full_names)?;
    for wish in &wishes {
        resolver.add(wish, shape.full_names)?;
    }
    resolver.finish()
}

fn wish<'a>(reference: &'a FeatureRef, no_map: &'a BTreeMap<String, String>) -> Wish<'a> {
    let prefix = match reference.version {
        Some(version) => format!("{}@v{version}", reference.view),
        None => reference.view.clone(),
    };
    Wish {
        view: &reference.view,
        prefix,
        version: reference.version,
        feature: &reference.feature,
        join_key_map: no_map,
    }
}

fn service_wishes(projection: &FeatureViewProjection) -> impl Iterator<Item = Wish<'_>> {
    let alias = &projection.feature_view_name_alias;
    let prefix = if alias.is_empty() {
        &projection.feature_view_name
    } else {
        alias
    };
    let version = projection.version_tag.and_then(|tag| u32::try_from(tag).ok());
    let prefix = version.map_or_else(|| prefix.clone(), |version| format!("{prefix}@v{version}"));
    projection.feature_columns.iter().map(move |feature| Wish {
        view: &projection.feature_view_name,
        prefix: prefix.clone(),
        version,
        feature: &feature.name,
        join_key_map: &projection.join_key_map,
    })
}

fn output_name(wish: &Wish<'_>, full_names: bool) -> String {
    if full_names {
        format!("{}__{}", wish.prefix, wish.feature)
    } else {
        wish.feature.to_owned()
    }
}

fn refuse_collisions(wishes: &[Wish<'_>], full_names: bool) -> Result<()> {
    let mut seen = HashSet::new();
    let mut twice: Vec<String> = Vec::new();
    for wish in wishes {
        let name = output_name(wish, full_names);
        if !seen.insert(name.clone()) && !twice.contains(&name) {
            twice.push(name);
        }
    }
    if twice.is_empty() {
        return Ok(());
    }
    let hint = if full_names {
        "ask for each feature once"
    } else {
        "ask for each feature once, or set `full_feature_names` to true"
    };
    Err(Error::new(
        Kind::FeatureNameCollision,
        format!(
            "features named `{}` were asked for more than once",
            twice.join("`, `")
        ),
    )
    .hint(hint))
}

impl Resolver<'_> {
    fn add(&mut self, wish: &Wish<'_>, full_names: bool) -> Result<()> {
        let name = output_name(wish, full_names);
        let not_found = || ObjectKind::FeatureView.not_found(wish.view, self.catalog.project());
        match self.catalog.view(wish.view).ok_or_else(not_found)?.clone() {
            View::Stored(view) => {
                let view = self.versioned(view, wish.version)?;
                refuse_disabled(view.enabled, &view.name)?;
                require_feature(&view.features, wish.feature, &view.name)?;
                let slot = self.read(&view, wish.version, wish.feature, wish.join_key_map);
                self.stored_outputs.push(Output {
                    name,
                    source: Source::Stored(slot),
                });
                self.note_version(wish, &view);
            }
            View::OnDemand(view) if view.write_to_online_store => {
                refuse_disabled(view.enabled, &view.name)?;
                require_feature(&view.features, wish.feature, &view.name)?;
                let stored = Arc::new(stored_form(&view, self.catalog));
                let slot = self.read(&stored, None, wish.feature, wish.join_key_map);
                self.stored_outputs.push(Output {
                    name,
                    source: Source::Stored(slot),
                });
                self.note_version(wish, &stored);
            }
            View::OnDemand(view) => {
                require_feature(&view.features, wish.feature, &view.name)?;
                let feature = position(&view.features, wish.feature);
                let view = self.compute(&view, &mut Vec::new())?;
                self.computed_outputs.push(Output {
                    name,
                    source: Source::Computed { view, feature },
                });
            }
        }
        Ok(())
    }

    /// The view as it was at a version; the active one when none is asked for.
    fn versioned(&self, view: Arc<FeatureView>, version: Option<u32>) -> Result<Arc<FeatureView>> {
        let Some(version) = version else { return Ok(view) };
        if !self.settings.versioning {
            return Err(Error::invalid(format!(
                "version `{version}` of feature view `{}` cannot be read: online versioning is off",
                view.name
            ))
            .hint(
                "set `enable_online_feature_view_versioning: true` under `registry` in feature_store.yaml",
            ));
        }
        if version == view.version {
            return Ok(view);
        }
        let mut old = self.catalog.view_version(&view.name, version)?;
        old.version = version;
        // Whether a view is switched on is a matter of today, not of the version.
        old.enabled = view.enabled;
        Ok(Arc::new(old))
    }

    fn note_version(&mut self, wish: &Wish<'_>, view: &FeatureView) {
        let name = wish.prefix.split('@').next().unwrap_or_default();
        if !self.view_versions.iter().any(|(known, _)| known == name) {
            self.view_versions.push((name.to_owned(), view.version));
        }
    }

    /// Adds a feature to what is read; the answered slot counts readings, and is renumbered at the end.
    fn read(
        &mut self,
        view: &Arc<FeatureView>,
        version: Option<u32>,
        feature: &str,
        join_key_map: &BTreeMap<String, String>,
    ) -> Slot {
        let keys = self.keys(view, join_key_map);
        let table = table_of(
            &view.name,
            version.unwrap_or(view.version),
            self.settings.versioning,
        );
        let known = self
            .readings
            .iter()
            .position(|reading| reading.table == table && reading.keys == keys);
        let batch = known.unwrap_or_else(|| {
            self.readings.push(Reading {
                view: Arc::clone(view),
                table,
                keys,
                features: Vec::new(),
            });
            self.readings.len() - 1
        });
        let features = &mut self.readings[batch].features;
        let feature = features
            .iter()
            .position(|known| known == feature)
            .unwrap_or_else(|| {
                features.push(feature.to_owned());
                features.len() - 1
            });
        Slot { batch, feature }
    }

    /// A view's join keys: as they are stored, as the request calls them, and their types.
    fn keys(
        &mut self,
        view: &FeatureView,
        map: &BTreeMap<String, String>,
    ) -> Vec<(String, String, ValueType)> {
        if view.is_entityless() {
            return Vec::new();
        }
        for name in &view.entities {
            if let Some(entity) = self.catalog.entity(name) {
                let (alias, column) = match map.get(&entity.join_key) {
                    Some(column) => (column, column),
                    None => (name, &entity.join_key),
                };
                self.entity_names.insert(alias.clone(), column.clone());
            }
        }
        join_keys(view, self.catalog)
            .into_iter()
            .map(|(key, value_type)| {
                let column = map.get(&key).cloned().unwrap_or_else(|| key.clone());
                if !self
                    .key_columns
                    .iter()
                    .any(|known| known.name == column && known.value_type == value_type)
                {
                    let view = view.name.clone();
                    self.key_columns.push(KeyColumn {
                        name: column.clone(),
                        value_type,
                        view,
                    });
                }
                (key, column, value_type)
            })
            .collect()
    }

    /// Adds an on-demand view with all it needs; answers its index. `path` guards against cycles.
    fn compute(&mut self, view: &Arc<OnDemandFeatureView>, path: &mut Vec<String>) -> Result<usize> {
        if let Some(known) = self
            .on_demand
            .iter()
            .position(|known| known.program.view.name == view.name)
        {
            return Ok(known);
        }
        if path.contains(&view.name) {
            return Err(Error::invalid(format!(
                "on demand feature view `{}` depends on itself",
                view.name
            )));
        }
        path.push(view.name.clone());
        refuse_disabled(view.enabled, &view.name)?;
        let mut inputs: Vec<Input> = Vec::new();
        for input in &view.inputs {
            match input {
                OnDemandInput::Request { fields, .. } => {
                    for field in fields {
                        let source = Source::Request(self.request_column(field));
                        add_input(&mut inputs, field.name.clone(), field.value_type, source);
                    }
                }
                OnDemandInput::View { .. } => self.view_inputs(input, &mut inputs, path)?,
            }
        }
        path.pop();
        self.on_demand.push(OnDemand {
            program: Program::new(Arc::clone(view)),
            inputs,
        });
        Ok(self.on_demand.len() - 1)
    }

    fn request_column(&mut self, field: &Field) -> usize {
        self.request_columns
            .iter()
            .position(|known| known.name == field.name)
            .unwrap_or_else(|| {
                self.request_columns.push(RequestColumn {
                    name: field.name.clone(),
                    value_type: field.value_type,
                });
                self.request_columns.len() - 1
            })
    }

    fn view_inputs(
        &mut self,
        input: &OnDemandInput,
        inputs: &mut Vec<Input>,
        path: &mut Vec<String>,
    ) -> Result<()> {
        let OnDemandInput::View {
            view: name,
            alias,
            features,
            join_key_map,
        } = input
        else {
            return Ok(());
        };
        let not_found = || ObjectKind::FeatureView.not_found(name, self.catalog.project());
        let prefix = if alias.is_empty() { name } else { alias };
        let stored = match self.catalog.view(name).ok_or_else(not_found)?.clone() {
            View::Stored(view) => view,
            View::OnDemand(view) if view.write_to_online_store => Arc::new(stored_form(&view, self.catalog)),
            View::OnDemand(view) => {
                let index = self.compute(&view, path)?;
                for field in features {
                    require_feature(&view.features, &field.name, &view.name)?;
                    let source = Source::Computed {
                        view: index,
                        feature: position(&view.features, &field.name),
                    };
                    add_both(inputs, prefix, field, source);
                }
                return Ok(());
            }
        };
        refuse_disabled(stored.enabled, &stored.name)?;
        for field in features {
            require_feature(&stored.features, &field.name, &stored.name)?;
            let source = Source::Stored(self.read(&stored, None, &field.name, join_key_map));
            add_both(inputs, prefix, field, source);
        }
        for (_, column, value_type) in self.keys(&stored, join_key_map) {
            let known = |key: &KeyColumn| key.name == column && key.value_type == value_type;
            if let Some(index) = self.key_columns.iter().position(known) {
                add_input(inputs, column, value_type, Source::Key(index));
            }
        }
        Ok(())
    }

    fn finish(self) -> Result<Plan> {
        let roles = self.roles();
        let mut groups: Vec<Group> = Vec::new();
        let mut views: Vec<Vec<ViewColumns>> = Vec::new();
        let mut group_keys: Vec<&[(String, String, ValueType)]> = Vec::new();
        // Where each reading went: its group and its place in there.
        let mut places = Vec::with_capacity(self.readings.len());
        for reading in &self.readings {
            let known = group_keys
                .iter()
                .position(|keys| *keys == reading.keys.as_slice());
            let group = match known {
                Some(group) => group,
                None => {
                    groups.push(self.group(&reading.keys)?);
                    views.push(Vec::new());
                    group_keys.push(&reading.keys);
                    groups.len() - 1
                }
            };
            places.push((group, views[group].len()));
            views[group].push(ViewColumns {
                table: Table {
                    view: Arc::clone(&reading.view),
                    name: reading.table.clone(),
                },
                features: reading.features.clone().into(),
            });
        }
        for (group, views) in groups.iter_mut().zip(views) {
            group.views = views.into();
        }
        let starts: Vec<usize> = groups
            .iter()
            .scan(0, |next, group| {
                let start = *next;
                *next += group.views.len();
                Some(start)
            })
            .collect();
        let batch_of: Vec<usize> = places.iter().map(|(group, view)| starts[*group] + view).collect();
        let renumber = |source: &mut Source| {
            if let Source::Stored(slot) = source {
                slot.batch = batch_of[slot.batch];
            }
        };
        let mut outputs = self.stored_outputs;
        outputs.extend(self.computed_outputs);
        outputs.iter_mut().for_each(|output| renumber(&mut output.source));
        let mut on_demand = self.on_demand;
        on_demand
            .iter_mut()
            .flat_map(|view| &mut view.inputs)
            .for_each(|input| renumber(&mut input.source));
        on_demand.iter_mut().for_each(|view| note_same(&mut view.inputs));
        Ok(Plan {
            project: self.catalog.project().into(),
            roles,
            key_columns: self.key_columns,
            request_columns: self.request_columns,
            groups,
            on_demand,
            outputs,
            view_versions: self.view_versions,
            precomputed: None,
            log: None,
            written: Written::default(),
            counters: OnceLock::new(),
        })
    }

    fn group(&self, keys: &[(String, String, ValueType)]) -> Result<Group> {
        let names: Vec<&str> = match keys {
            [] => vec![DUMMY_JOIN_KEY],
            keys => keys.iter().map(|(key, ..)| key.as_str()).collect(),
        };
        let index = |(_, column, value_type): &(String, String, ValueType)| {
            self.key_columns
                .iter()
                .position(|known| known.name == *column && known.value_type == *value_type)
        };
        Ok(Group {
            encoder: KeyEncoder::new(&names, self.settings.key_version)?,
            columns: keys.iter().filter_map(index).collect(),
            views: Arc::default(),
        })
    }

    fn roles(&self) -> HashMap<String, Role> {
        let mut roles = HashMap::new();
        let role = |column: &str| {
            let named = self
                .key_columns
                .iter()
                .enumerate()
                .filter(|(_, known)| known.name == column);
            let columns: Vec<usize> = named.map(|(index, _)| index).collect();
            let name = column.to_owned();
            if columns.is_empty() {
                Role::Echo { name }
            } else {
                Role::Key { name, columns }
            }
        };
        for (name, entity) in self.catalog.entities() {
            if entity.join_key == DUMMY_JOIN_KEY {
                continue;
            }
            roles.insert(name.clone(), role(&entity.join_key));
        }
        for (name, column) in &self.entity_names {
            roles.insert(name.clone(), role(column));
        }
        // Join keys go before entity names that are spelt the same, request data before both.
        for (_, entity) in self.catalog.entities() {
            if entity.join_key != DUMMY_JOIN_KEY {
                roles.insert(entity.join_key.clone(), role(&entity.join_key));
            }
        }
        for column in &self.key_columns {
            roles.insert(column.name.clone(), role(&column.name));
        }
        for (index, column) in self.request_columns.iter().enumerate() {
            roles.insert(column.name.clone(), Role::Request(index));
        }
        roles
    }
}

fn add_both(inputs: &mut Vec<Input>, prefix: &str, field: &Field, source: Source) {
    add_input(inputs, field.name.clone(), field.value_type, source);
    add_input(
        inputs,
        format!("{prefix}__{}", field.name),
        field.value_type,
        source,
    );
}

/// Of inputs with one name the first stays, as columns of a batch need distinct names.
fn add_input(inputs: &mut Vec<Input>, name: String, value_type: ValueType, source: Source) {
    if !inputs.iter().any(|known| known.name == name) {
        inputs.push(Input {
            name,
            value_type,
            source,
            same: None,
        });
    }
}

/// Most inputs have two names; whoever fills them looks at each source once.
fn note_same(inputs: &mut [Input]) {
    let mut first: HashMap<(Source, ValueType), usize> = HashMap::with_capacity(inputs.len());
    for (place, input) in inputs.iter_mut().enumerate() {
        let known = *first.entry((input.source, input.value_type)).or_insert(place);
        input.same = (known != place).then_some(known);
    }
}

fn position(fields: &[Field], name: &str) -> usize {
    fields
        .iter()
        .position(|field| field.name == name)
        .unwrap_or_default()
}

fn refuse_disabled(enabled: bool, view: &str) -> Result<()> {
    if enabled {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "feature view `{view}` is disabled and serves no features"
    ))
    .hint("enable it in its definition and apply again"))
}

fn require_feature(fields: &[Field], feature: &str, view: &str) -> Result<()> {
    if fields.iter().any(|field| field.name == feature) {
        return Ok(());
    }
    let known: Vec<&str> = fields.iter().map(|field| field.name.as_str()).take(20).collect();
    Err(
        Error::invalid(format!("feature view `{view}` has no feature `{feature}`"))
            .hint(format!("it has {}", known.join(", "))),
    )
}

/// The join keys of a view with their types; registries of old Feast versions name only the entities.
fn join_keys(view: &FeatureView, catalog: &Catalog) -> Vec<(String, ValueType)> {
    if !view.join_keys.is_empty() {
        return view
            .join_keys
            .iter()
            .map(|key| (key.name.clone(), key.value_type))
            .collect();
    }
    let entities = view.entities.iter().filter_map(|name| catalog.entity(name));
    entities
        .map(|entity| (entity.join_key.clone(), ValueType::from_number(entity.value_type)))
        .collect()
}

pub(super) fn stored_form(view: &OnDemandFeatureView, catalog: &Catalog) -> FeatureView {
    let mut join_keys = view.join_keys.clone();
    let mut entities = view.entities.clone();
    if join_keys.is_empty() && entities.is_empty() {
        for input in &view.inputs {
            let OnDemandInput::View { view: name, .. } = input else {
                continue;
            };
            let Ok(source) = catalog.stored_view(name) else {
                continue;
            };
            for (key, entity) in source.join_keys.iter().zip(&source.entities) {
                if !join_keys.contains(key) {
                    join_keys.push(key.clone());
                    entities.push(entity.clone());
                }
            }
        }
    }
    FeatureView {
        kind: ObjectKind::OnDemandFeatureView,
        project: view.project.clone(),
        name: view.name.clone(),
        entities,
        join_keys,
        features: view.features.clone(),
        ttl: None,
        batch_source: None,
        stream_source: None,
        online: true,
        offline: false,
        enabled: view.enabled,
        state: crate::proto::feast::core::FeatureViewState::StateUnspecified,
        tags: view.tags.clone(),
        description: String::new(),
        owner: String::new(),
        intervals: Vec::new(),
        version: 0,
    }
}
