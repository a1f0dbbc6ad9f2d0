//! [`Plan`]: the wanted features looked up in a catalog: views to join, inputs to compute from, and the
//! columns of the answer.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use arrow::datatypes::Schema;

use super::{Alias, Wanted, missing_request_data};
use crate::{
    error::{Error, Kind, Result},
    model::{
        FeatureRef, FeatureView, Field, ObjectKind, OnDemandFeatureView, ValueType, on_demand::OnDemandInput,
    },
    offline::store::{JoinFeature, JoinKey, JoinView, listed},
    proto::feast::core::FeatureViewProjection,
    registry::{Catalog, View},
    transform::Program,
};

/// A request resolved.
pub(super) struct Plan {
    pub(super) views: Vec<JoinView>,
    /// How many feature columns the joined rows have, inputs included.
    pub(super) joined_features: usize,
    /// In an order in which each needs only outputs of earlier ones.
    pub(super) on_demand: Vec<Computed>,
    /// The feature columns of the answer, in order.
    pub(super) outputs: Vec<Output>,
}

/// An on-demand view to compute.
pub(super) struct Computed {
    pub(super) program: Program,
    /// Column names of the view's input, and where their values come from.
    pub(super) inputs: Vec<(String, Source)>,
}

/// Where values of a column come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Source {
    /// A column of the joined rows.
    Joined(String),
    /// A request column or join key, which the entity rows must have.
    Entity(String),
    /// A feature of an earlier on-demand view.
    Computed { view: usize, feature: usize },
}

/// A column of the answer.
pub(super) struct Output {
    pub(super) name: String,
    pub(super) source: Source,
}

/// One wanted feature.
struct Wish {
    view: String,
    /// What the view is called in full names.
    prefix: String,
    version: Option<u32>,
    feature: String,
    join_key_map: BTreeMap<String, String>,
}

impl Plan {
    /// Looks everything up.
    pub(super) fn resolve(catalog: &Catalog, wanted: &Wanted, full_names: bool) -> Result<Self> {
        let wishes = wishes(catalog, wanted)?;
        if wishes.is_empty() {
            return Err(Error::invalid("no features are asked for")
                .hint("give `view:feature` references or the name of a feature service"));
        }
        let mut resolver = Resolver {
            catalog,
            full_names,
            joins: Vec::new(),
            on_demand: Vec::new(),
            computed_outputs: Vec::new(),
        };
        resolver.refuse_collisions(&wishes)?;
        for wish in &wishes {
            resolver.add(wish)?;
        }
        Ok(resolver.finish())
    }

    /// Columns that entity rows must have for on-demand views.
    pub(super) fn request_columns(&self) -> impl Iterator<Item = &str> {
        self.on_demand
            .iter()
            .flat_map(|computed| &computed.inputs)
            .filter_map(|(_, source)| match source {
                Source::Entity(name) => Some(name.as_str()),
                _ => None,
            })
    }

    /// Refuses entity rows that lack a key or request column, or whose columns clash with the answer's.
    pub(super) fn check_entities(&self, schema: &Schema) -> Result<()> {
        let columns = || listed(schema.fields().iter().map(|field| field.name().as_str()));
        let mut missing = Vec::new();
        for key in self.views.iter().flat_map(|view| &view.join_keys) {
            let name = key.entity_column.as_str();
            if schema.index_of(name).is_err() && !missing.contains(&name) {
                missing.push(name);
            }
        }
        if !missing.is_empty() {
            let message = format!(
                "the entity rows lack the join keys {}; they have {}",
                listed(missing),
                columns()
            );
            return Err(Error::new(Kind::EntityColumnsMissing, message));
        }
        if let Some(column) = self.request_columns().find(|name| schema.index_of(name).is_err()) {
            return Err(missing_request_data(
                column,
                &format!("the entity rows have {}", columns()),
            ));
        }
        let clash = self
            .outputs
            .iter()
            .find(|output| schema.index_of(&output.name).is_ok());
        if let Some(output) = clash {
            let message = format!("feature `{}` has the name of an entity column", output.name);
            return Err(Error::new(Kind::FeatureNameCollision, message)
                .hint("ask for full feature names, or call the entity column something else"));
        }
        Ok(())
    }
}

fn wishes(catalog: &Catalog, wanted: &Wanted) -> Result<Vec<Wish>> {
    match wanted {
        Wanted::Features { references, aliases } => references
            .iter()
            .map(|text| wish(catalog, &FeatureRef::parse(text)?, aliases))
            .collect(),
        Wanted::Service(name) => {
            let service = catalog.service(name)?;
            let projections = service.spec.as_ref().map_or(&[][..], |spec| &spec.features);
            Ok(projections.iter().flat_map(service_wishes).collect())
        }
    }
}

fn wish(catalog: &Catalog, reference: &FeatureRef, aliases: &[Alias]) -> Result<Wish> {
    let prefix = match reference.version {
        Some(version) => format!("{}@v{version}", reference.view),
        None => reference.view.clone(),
    };
    let (view, join_key_map) = match aliases.iter().find(|alias| alias.alias == reference.view) {
        Some(alias) => (
            alias.view.clone(),
            alias_projection(catalog, alias)?.join_key_map.clone(),
        ),
        None => (reference.view.clone(), BTreeMap::new()),
    };
    Ok(Wish {
        view,
        prefix,
        version: reference.version,
        feature: reference.feature.clone(),
        join_key_map,
    })
}

/// The projection an alias stands for. Feast sends only the alias's name and looks through all services;
/// the last match wins there, and here among those of the same view.
fn alias_projection<'a>(catalog: &'a Catalog, alias: &Alias) -> Result<&'a FeatureViewProjection> {
    let mut found = None;
    for object in catalog.objects(ObjectKind::FeatureService) {
        let spec = catalog.service(&object.name)?.spec.as_ref();
        let mut projections = spec.map_or(&[][..], |spec| &spec.features).iter();
        let same = |projection: &&FeatureViewProjection| {
            projection.feature_view_name_alias == alias.alias && projection.feature_view_name == alias.view
        };
        found = projections.rfind(same).or(found);
    }
    found.ok_or_else(|| {
        let (view, alias) = (&alias.view, &alias.alias);
        Error::invalid(format!(
            "no feature service calls feature view `{view}` by the alias `{alias}`"
        ))
        .hint("apply the feature service that defines the alias first")
    })
}

fn service_wishes(projection: &FeatureViewProjection) -> impl Iterator<Item = Wish> + '_ {
    let alias = &projection.feature_view_name_alias;
    let prefix = if alias.is_empty() {
        &projection.feature_view_name
    } else {
        alias
    };
    let version = projection.version_tag.and_then(|tag| u32::try_from(tag).ok());
    let prefix = version.map_or_else(|| prefix.clone(), |version| format!("{prefix}@v{version}"));
    projection.feature_columns.iter().map(move |feature| Wish {
        view: projection.feature_view_name.clone(),
        prefix: prefix.clone(),
        version,
        feature: feature.name.clone(),
        join_key_map: projection.join_key_map.clone(),
    })
}

/// A view being joined, while its features are still collected.
struct Joining {
    view: Arc<FeatureView>,
    prefix: String,
    keys: Vec<JoinKey>,
    /// Feature, its column in the joined rows, and whether the answer has it.
    features: Vec<(Field, String, bool)>,
}

struct Resolver<'a> {
    catalog: &'a Catalog,
    full_names: bool,
    joins: Vec<Joining>,
    on_demand: Vec<Computed>,
    computed_outputs: Vec<Output>,
}

impl Resolver<'_> {
    fn output_name(&self, prefix: &str, feature: &str) -> String {
        if self.full_names {
            format!("{prefix}__{feature}")
        } else {
            feature.to_owned()
        }
    }

    fn refuse_collisions(&self, wishes: &[Wish]) -> Result<()> {
        let mut seen = HashSet::new();
        let names = wishes
            .iter()
            .map(|wish| self.output_name(&wish.prefix, &wish.feature));
        let twice: Vec<_> = names.filter(|name| !seen.insert(name.clone())).collect();
        if twice.is_empty() {
            return Ok(());
        }
        let hint = if self.full_names {
            "ask for each feature once"
        } else {
            "ask for each feature once, or set `full_feature_names` to true"
        };
        let names = listed(twice.iter().map(String::as_str));
        Err(Error::new(
            Kind::FeatureNameCollision,
            format!("features named {names} are asked for more than once"),
        )
        .hint(hint))
    }

    fn add(&mut self, wish: &Wish) -> Result<()> {
        let name = self.output_name(&wish.prefix, &wish.feature);
        match self.view(&wish.view)? {
            View::Stored(view) => {
                let view = self.versioned(view, wish.version)?;
                self.join(&view, &wish.prefix, &wish.feature, &wish.join_key_map, Some(name))?;
            }
            View::OnDemand(view) => {
                let feature = place_of(&view.features, &wish.feature, &view.name)?;
                let view = self.compute(&view, &mut Vec::new())?;
                self.computed_outputs.push(Output {
                    name,
                    source: Source::Computed { view, feature },
                });
            }
        }
        Ok(())
    }

    fn view(&self, name: &str) -> Result<View> {
        let view = self.catalog.view(name).cloned();
        view.ok_or_else(|| ObjectKind::FeatureView.not_found(name, self.catalog.project()))
    }

    /// The view as it was at a version; the active one when none is asked for.
    fn versioned(&self, view: Arc<FeatureView>, version: Option<u32>) -> Result<Arc<FeatureView>> {
        let Some(version) = version.filter(|version| *version != view.version) else {
            return Ok(view);
        };
        Ok(Arc::new(self.catalog.view_version(&view.name, version)?))
    }

    /// Adds a feature to what is joined, as a column of the answer or as an input; answers its column.
    fn join(
        &mut self,
        view: &Arc<FeatureView>,
        prefix: &str,
        feature: &str,
        map: &BTreeMap<String, String>,
        output: Option<String>,
    ) -> Result<String> {
        let field = view.features[place_of(&view.features, feature, &view.name)?].clone();
        if view.batch_source.is_none() {
            return Err(Error::invalid(format!(
                "feature view `{}` has no batch source, so no history",
                view.name
            ))
            .hint("only views with a batch source can be joined"));
        }
        let keys = self.keys(view, map);
        let same = |joining: &Joining| {
            joining.prefix == prefix
                && joining.view.name == view.name
                && joining
                    .keys
                    .iter()
                    .map(|key| &key.entity_column)
                    .eq(keys.iter().map(|key| &key.entity_column))
        };
        let place = self.joins.iter().position(same).unwrap_or_else(|| {
            let (view, prefix) = (Arc::clone(view), prefix.to_owned());
            self.joins.push(Joining {
                view,
                prefix,
                keys,
                features: Vec::new(),
            });
            self.joins.len() - 1
        });
        let joining = &mut self.joins[place];
        let wanted = output.is_some();
        if let Some(known) = joining
            .features
            .iter_mut()
            .find(|(known, ..)| known.name == feature)
        {
            // An input that is now asked for takes its name; whoever reads it must follow.
            if let Some(output) = output.filter(|_| !known.2) {
                let old = std::mem::replace(&mut known.1, output.clone());
                known.2 = true;
                self.rename(&old, &output);
                return Ok(output);
            }
            return Ok(known.1.clone());
        }
        let column = output.unwrap_or_else(|| format!("\u{1}{place}:{prefix}:{feature}"));
        joining.features.push((field, column.clone(), wanted));
        Ok(column)
    }

    fn rename(&mut self, old: &str, new: &str) {
        for (_, source) in self
            .on_demand
            .iter_mut()
            .flat_map(|computed| &mut computed.inputs)
        {
            if *source == Source::Joined(old.to_owned()) {
                *source = Source::Joined(new.to_owned());
            }
        }
    }

    fn keys(&self, view: &FeatureView, map: &BTreeMap<String, String>) -> Vec<JoinKey> {
        if view.is_entityless() {
            return Vec::new();
        }
        let mut keys: Vec<(String, ValueType)> = view
            .join_keys
            .iter()
            .map(|key| (key.name.clone(), key.value_type))
            .collect();
        if keys.is_empty() {
            // Registries of old Feast versions name only the entities.
            let entities = view.entities.iter().filter_map(|name| self.catalog.entity(name));
            keys = entities
                .map(|spec| (spec.join_key.clone(), ValueType::from_number(spec.value_type)))
                .collect();
        }
        let key = |(name, value_type): (String, ValueType)| JoinKey {
            entity_column: map.get(&name).unwrap_or(&name).clone(),
            source_column: name,
            value_type,
        };
        keys.into_iter().map(key).collect()
    }

    /// Adds an on-demand view with all it needs; answers its place. `path` guards against cycles.
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
        let mut inputs = Vec::new();
        for input in &view.inputs {
            match input {
                OnDemandInput::Request { fields, .. } => {
                    for field in fields {
                        add_input(
                            &mut inputs,
                            field.name.clone(),
                            Source::Entity(field.name.clone()),
                        );
                    }
                }
                OnDemandInput::View { .. } => self.view_inputs(input, &mut inputs, path)?,
            }
        }
        path.pop();
        self.on_demand.push(Computed {
            program: Program::new(Arc::clone(view)),
            inputs,
        });
        Ok(self.on_demand.len() - 1)
    }

    fn view_inputs(
        &mut self,
        input: &OnDemandInput,
        inputs: &mut Vec<(String, Source)>,
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
        let prefix = if alias.is_empty() { name } else { alias };
        match self.view(name)? {
            View::OnDemand(view) => {
                let computed = self.compute(&view, path)?;
                for field in features {
                    let feature = place_of(&view.features, &field.name, &view.name)?;
                    add_both(
                        inputs,
                        prefix,
                        &field.name,
                        &Source::Computed {
                            view: computed,
                            feature,
                        },
                    );
                }
            }
            View::Stored(view) => {
                for field in features {
                    let column = self.join(&view, prefix, &field.name, join_key_map, None)?;
                    add_both(inputs, prefix, &field.name, &Source::Joined(column));
                }
                for key in self.keys(&view, join_key_map) {
                    let column = key.entity_column;
                    add_input(inputs, column.clone(), Source::Joined(column));
                }
            }
        }
        Ok(())
    }

    fn finish(self) -> Plan {
        let mut outputs = Vec::new();
        let mut views = Vec::with_capacity(self.joins.len());
        for joining in self.joins {
            for (_, column, wanted) in &joining.features {
                if *wanted {
                    outputs.push(Output {
                        name: column.clone(),
                        source: Source::Joined(column.clone()),
                    });
                }
            }
            let features = joining
                .features
                .into_iter()
                .map(|(field, output, _)| JoinFeature {
                    source_column: field.name,
                    output,
                    value_type: field.value_type,
                });
            views.push(JoinView {
                name: match joining.prefix.rsplit_once("@v") {
                    Some((_, version)) if version.parse::<u32>().is_ok() => {
                        format!("{}@v{version}", joining.view.name)
                    }
                    _ => joining.view.name.clone(),
                },
                // Never absent: `join` refuses views without history.
                source: joining.view.batch_source.clone().unwrap_or_default(),
                join_keys: joining.keys,
                features: features.collect(),
                ttl: joining.view.ttl,
            });
        }
        outputs.extend(self.computed_outputs);
        let joined_features = views.iter().map(|view| view.features.len()).sum();
        Plan {
            views,
            joined_features,
            on_demand: self.on_demand,
            outputs,
        }
    }
}

fn add_input(inputs: &mut Vec<(String, Source)>, name: String, source: Source) {
    if !inputs.iter().any(|(known, _)| *known == name) {
        inputs.push((name, source));
    }
}

/// An input under its short and its full name.
fn add_both(inputs: &mut Vec<(String, Source)>, prefix: &str, feature: &str, source: &Source) {
    add_input(inputs, feature.to_owned(), source.clone());
    add_input(inputs, format!("{prefix}__{feature}"), source.clone());
}

fn place_of(fields: &[Field], feature: &str, view: &str) -> Result<usize> {
    fields
        .iter()
        .position(|field| field.name == feature)
        .ok_or_else(|| {
            let known = listed(fields.iter().map(|field| field.name.as_str()));
            Error::invalid(format!("feature view `{view}` has no feature `{feature}`"))
                .hint(format!("it has {known}"))
        })
}
