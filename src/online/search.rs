//! Similarity search: a request is resolved to one view, the store finds rows, and they are answered in
//! rank order. Only the store knows how rows are ranked.

use std::{fmt::Write as _, sync::Arc};

use prost::Message as _;

use super::{
    plan::{Plan, Shape, Source, Wanted},
    serve::{Server, Status},
    store::{
        Found, Search, Table,
        search::{Filter, VectorQuery},
    },
};
use crate::{
    error::{Error, Kind, Result},
    model::{
        FeatureView, ObjectKind, ValueType, entity_key,
        feature_view::DUMMY_JOIN_KEY,
        value::{self, Value},
    },
    proto::feast::{
        core,
        serving::{
            FeatureList, FeatureViewMetadata, GetOnlineFeaturesResponse, GetOnlineFeaturesResponseMetadata,
            get_online_features_response::FeatureVector,
        },
    },
    registry::Catalog,
};

/// The most rows that one search answers.
const MOST_ROWS: i64 = 10_000;
/// The most comparisons of a filter, and the most values they name: each is a parameter of a statement, and
/// databases limit these as well as how long a condition may be.
const MOST_COMPARISONS: usize = 500;
const MOST_VALUES: usize = 10_000;
/// The most bytes of a text to search for: databases take long for many words, and PostgreSQL refuses very many.
const MOST_TEXT: usize = 32 << 10;

/// A search as it is asked for.
#[derive(Debug, Clone)]
pub struct Request {
    pub wanted: Wanted<'static>,
    pub vector: Option<Vec<f32>>,
    /// Words to look for.
    pub text: Option<String>,
    /// What the request calls its measure; a metric that the view declares wins over it.
    pub metric: Option<String>,
    pub filter: Option<Filter>,
    pub top_k: Option<i64>,
    pub version_metadata: bool,
}

/// The feature of a view that holds its vectors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VectorField {
    pub name: String,
    /// How it declares that distance is measured.
    pub metric: Option<String>,
    /// How long its vectors are; 0 when it does not say.
    pub length: usize,
}

/// What was found, in rank order.
#[derive(Debug)]
pub struct Answer {
    pub view: Arc<FeatureView>,
    /// The features answered, in request order.
    pub features: Vec<String>,
    pub vector_field: Option<VectorField>,
    found: Found,
    /// Join keys with their values, row by row.
    keys: Vec<(String, Vec<Value>)>,
    versions: Option<Vec<(String, u32)>>,
}

impl Server {
    /// The rows of one view that are nearest to a vector, or match a text best.
    ///
    /// # Errors
    /// The caller's mistakes as 4xx kinds; `Unsupported` where the store cannot search.
    pub async fn search(&self, request: Request) -> Result<Answer> {
        if request.vector.is_none() && request.text.as_deref().is_none_or(str::is_empty) {
            return Err(Error::invalid("nothing to search for")
                .hint("give a vector as `query`, or a text as `query_string` with `api_version` 2"));
        }
        let catalog = self.registry.catalog(&self.project).await?;
        let shape = Shape {
            wanted: request.wanted,
            full_names: false,
        };
        let plan = Plan::new(&catalog, &shape, self.settings)?;
        let (table, features) = searched(&plan)?;
        let vector_field = vector_field(&catalog, &table.view)?;
        let search = Search {
            vector: match request.vector {
                Some(vector) => Some(query(&table.view, vector_field.as_ref(), vector, request.metric)?),
                None => None,
            },
            features: features.clone(),
            text: request.text.filter(|text| !text.is_empty()),
            filter: request.filter,
            top_k: top_k(request.top_k)?,
        };
        if let Some(text) = &search.text {
            check_text(text)?;
        }
        if let Some(filter) = &search.filter {
            check_filter(filter, &table.view)?;
            check_size(filter)?;
        }
        let found = self.store.search(&self.project, &table, &search).await;
        // Asking a store for what it cannot do is the caller's mistake, and not to be sent again.
        let found = found.map_err(|error| match error.kind() {
            Kind::Unsupported => Error::invalid(error.one_line()),
            _ => error,
        })?;
        check_found(&found, features.len())?;
        Ok(Answer {
            keys: join_keys(&table.view, &found)?,
            view: table.view,
            features,
            vector_field,
            found,
            versions: request.version_metadata.then(|| plan.view_versions.clone()),
        })
    }
}

/// The one view that a plan reads, and the features it is asked for.
fn searched(plan: &Plan) -> Result<(Table, Vec<String>)> {
    let mut batches = plan.batches();
    let (Some((_, columns)), None, true) = (batches.next(), batches.next(), plan.on_demand.is_empty()) else {
        return Err(Error::invalid(
            "a search reads the stored features of exactly one feature view",
        ));
    };
    let names = plan.outputs.iter().filter_map(|output| match output.source {
        Source::Stored(slot) => columns.features.get(slot.feature).cloned(),
        _ => None,
    });
    Ok((columns.table.clone(), names.collect()))
}

fn top_k(asked: Option<i64>) -> Result<usize> {
    let Some(asked) = asked else {
        return Err(Error::invalid("`top_k` is missing").hint("say how many rows are wanted at most"));
    };
    usize::try_from(asked)
        .ok()
        .filter(|_| (1..=MOST_ROWS).contains(&asked))
        .ok_or_else(|| {
            Error::invalid(format!(
                "`top_k` is {asked}, and must be between 1 and {MOST_ROWS}"
            ))
        })
}

fn query(
    view: &FeatureView,
    field: Option<&VectorField>,
    vector: Vec<f32>,
    metric: Option<String>,
) -> Result<VectorQuery> {
    let Some(field) = field else {
        return Err(
            Error::invalid(format!("feature view `{}` has no vector to search", view.name))
                .hint("declare a feature with `vector_index=True`"),
        );
    };
    if vector.is_empty() || (field.length > 0 && vector.len() != field.length) {
        return Err(Error::invalid(format!(
            "the vector has {} numbers, those of `{}:{}` have {}",
            vector.len(),
            view.name,
            field.name,
            field.length
        )));
    }
    if let Some(place) = vector.iter().position(|number| !number.is_finite()) {
        return Err(Error::invalid(format!(
            "number {place} of the vector is not finite"
        )));
    }
    Ok(VectorQuery {
        field: field.name.clone(),
        vector,
        metric: field.metric.clone().or(metric),
    })
}

fn check_filter(filter: &Filter, view: &FeatureView) -> Result<()> {
    match filter {
        Filter::And(filters) | Filter::Or(filters) => {
            filters.iter().try_for_each(|filter| check_filter(filter, view))
        }
        Filter::Compare { key, .. } => {
            if view.feature(key).is_some() || view.join_keys.iter().any(|column| column.name == *key) {
                return Ok(());
            }
            Err(Error::invalid(format!(
                "the filter names `{key}`, which feature view `{}` does not have",
                view.name
            )))
        }
    }
}

fn check_text(text: &str) -> Result<()> {
    if text.len() <= MOST_TEXT {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "`query_string` has {} bytes, and may have {MOST_TEXT}",
        text.len()
    ))
    .hint("search for the words that matter"))
}

fn check_size(filter: &Filter) -> Result<()> {
    fn size(filter: &Filter) -> (usize, usize) {
        match filter {
            Filter::And(filters) | Filter::Or(filters) => filters
                .iter()
                .map(size)
                .fold((0, 0), |sum, (one, two)| (sum.0 + one, sum.1 + two)),
            Filter::Compare { value, .. } => (1, value.as_array().map_or(1, Vec::len)),
        }
    }
    let (comparisons, values) = size(filter);
    if comparisons <= MOST_COMPARISONS && values <= MOST_VALUES {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "the filter has {comparisons} comparisons with {values} values, and may have {MOST_COMPARISONS} with {MOST_VALUES}"
    ))
    .hint("`in` compares with many values at once; send several requests"))
}

/// What is answered is indexed by what was asked, so a store that breaks its promise is caught here.
fn check_found(found: &Found, width: usize) -> Result<()> {
    let rows = found.keys.len();
    let as_long = |numbers: &Option<Vec<f64>>| numbers.as_ref().is_none_or(|numbers| numbers.len() == rows);
    let fits = (found.rows.has_shape(rows, width) || rows == 0 && found.rows.rows() == 0)
        && as_long(&found.distances)
        && as_long(&found.text_ranks);
    if fits {
        return Ok(());
    }
    Err(Error::internal(
        "the online store answered a search with other columns than were asked for",
    ))
}

fn join_keys(view: &FeatureView, found: &Found) -> Result<Vec<(String, Vec<Value>)>> {
    let names = view.join_keys.iter().map(|column| &column.name);
    let names = names.filter(|name| *name != DUMMY_JOIN_KEY);
    let mut columns: Vec<(String, Vec<Value>)> = names
        .map(|name| (name.clone(), Vec::with_capacity(found.keys.len())))
        .collect();
    for key in &found.keys {
        let mut entity = entity_key::deserialize(key)?;
        for (name, values) in &mut columns {
            let place = entity.iter().position(|(known, _)| known == name);
            values.push(place.map_or(value::NULL, |place| entity.swap_remove(place).1));
        }
    }
    Ok(columns)
}

/// The feature that holds a view's vectors, as the registry declares it.
///
/// # Errors
/// `Internal` when stored bytes are malformed.
pub fn vector_field(catalog: &Catalog, view: &FeatureView) -> Result<Option<VectorField>> {
    let Some(object) = catalog
        .object(view.kind, &view.name)
        .or_else(|| catalog.object(ObjectKind::OnDemandFeatureView, &view.name))
    else {
        return Ok(None);
    };
    let features = match object.kind {
        ObjectKind::StreamFeatureView => object
            .decode::<core::StreamFeatureView>()?
            .spec
            .map(|spec| spec.features),
        ObjectKind::OnDemandFeatureView => object
            .decode::<core::OnDemandFeatureView>()?
            .spec
            .map(|spec| spec.features),
        ObjectKind::LabelView => None,
        _ => object
            .decode::<core::FeatureView>()?
            .spec
            .map(|spec| spec.features),
    };
    let found = features
        .unwrap_or_default()
        .into_iter()
        .find(|spec| spec.vector_index);
    Ok(found.map(|spec| VectorField {
        name: spec.name,
        metric: Some(spec.vector_search_metric).filter(|metric| !metric.is_empty()),
        length: usize::try_from(spec.vector_length).unwrap_or_default(),
    }))
}

impl Answer {
    /// The number of rows.
    pub fn rows(&self) -> usize {
        self.found.keys.len()
    }

    /// The join keys, with a value for every row.
    pub fn join_keys(&self) -> &[(String, Vec<Value>)] {
        &self.keys
    }

    /// How far each row is from the vector that was given.
    pub fn distances(&self) -> Option<&[f64]> {
        self.found.distances.as_deref()
    }

    /// The values of one of the features, `None` where a row lacks it.
    ///
    /// # Errors
    /// `InvalidArgument` when a stored value is malformed.
    pub fn values(&self, feature: usize) -> Result<Vec<Option<Value>>> {
        let rows = &self.found.rows;
        let cells = (0..self.rows()).map(|row| rows.get(row, feature));
        cells
            .map(|bytes| Ok(bytes.map(Value::decode).transpose()?))
            .collect()
    }

    /// The declared type of a column, if it is a feature or a join key.
    pub fn type_of(&self, column: &str) -> Option<ValueType> {
        let key = || self.view.join_keys.iter().find(|key| key.name == column);
        self.view
            .feature(column)
            .or_else(key)
            .map(|field| field.value_type)
    }

    /// The answer of `api_version` 2: features, `distance`, with a text `text_rank`, and the join keys.
    ///
    /// # Errors
    /// As [`Answer::values`].
    pub fn into_message(self) -> Result<GetOnlineFeaturesResponse> {
        let times: Vec<_> = self
            .found
            .rows
            .event_times
            .iter()
            .map(|time| time.map_or_else(Default::default, super::message::timestamp))
            .collect();
        let column = |values: Vec<Option<Value>>| FeatureVector {
            statuses: values.iter().map(status).collect(),
            values: values.into_iter().map(Option::unwrap_or_default).collect(),
            event_timestamps: times.clone(),
        };
        let ranks = |ranks: &Option<Vec<f64>>| match ranks {
            Some(ranks) => ranks
                .iter()
                .map(|rank| Some(value::Kind::DoubleVal(*rank).into()))
                .collect(),
            None => vec![None; self.rows()],
        };
        let mut names = self.features.clone();
        let mut results = Vec::with_capacity(names.len() + 2 + self.keys.len());
        for index in 0..self.features.len() {
            results.push(column(self.values(index)?));
        }
        names.push("distance".to_owned());
        results.push(column(ranks(&self.found.distances)));
        if self.found.text_ranks.is_some() {
            names.push("text_rank".to_owned());
            results.push(column(ranks(&self.found.text_ranks)));
        }
        for (name, values) in self.keys {
            names.push(name);
            results.push(timeless(values));
        }
        Ok(message(names, results, self.versions.unwrap_or_default()))
    }

    /// The answer of `api_version` 1: of the join keys and the vectors what was asked for, vectors as text.
    ///
    /// # Errors
    /// As [`Answer::values`].
    pub fn into_old_message(self) -> Result<GetOnlineFeaturesResponse> {
        let (mut names, mut results) = (Vec::new(), Vec::new());
        for (index, name) in self.features.iter().enumerate() {
            if self.vector_field.as_ref().is_none_or(|field| field.name != *name) {
                continue;
            }
            let texts = self.values(index)?.into_iter().map(|value| {
                let text = value.as_ref().and_then(vector_text);
                text.map_or(value::NULL, |text| value::Kind::StringVal(text).into())
            });
            names.push(name.clone());
            results.push(timeless(texts.collect()));
        }
        Ok(message(names, results, Vec::new()))
    }
}

fn message(
    names: Vec<String>,
    results: Vec<FeatureVector>,
    versions: Vec<(String, u32)>,
) -> GetOnlineFeaturesResponse {
    let versions = versions.into_iter().map(|(name, version)| FeatureViewMetadata {
        name,
        version: i32::try_from(version).unwrap_or_default(),
    });
    GetOnlineFeaturesResponse {
        metadata: Some(GetOnlineFeaturesResponseMetadata {
            feature_names: Some(FeatureList { val: names }),
            feature_view_metadata: versions.collect(),
        }),
        results,
        status: false,
    }
}

fn status(value: &Option<Value>) -> i32 {
    let status = match value {
        Some(_) => Status::Present,
        None => Status::NotFound,
    };
    i32::from(status as u8)
}

/// A column that is present throughout and has no event times.
fn timeless(values: Vec<Value>) -> FeatureVector {
    FeatureVector {
        statuses: vec![i32::from(Status::Present as u8); values.len()],
        event_timestamps: vec![prost_types::Timestamp::default(); values.len()],
        values,
    }
}

/// A vector as databases write it: `[0.1,0.2]`.
fn vector_text(value: &Value) -> Option<String> {
    let mut text = "[".to_owned();
    let mut put = |number: &dyn std::fmt::Display| {
        if text.len() > 1 {
            text.push(',');
        }
        // Writing to a `String` cannot fail.
        let _ = write!(text, "{number}");
    };
    match value.val.as_ref()? {
        value::Kind::FloatListVal(list) => list.val.iter().for_each(|number| put(number)),
        value::Kind::DoubleListVal(list) => list.val.iter().for_each(|number| put(number)),
        value::Kind::Int64ListVal(list) => list.val.iter().for_each(|number| put(number)),
        value::Kind::Int32ListVal(list) => list.val.iter().for_each(|number| put(number)),
        _ => return None,
    }
    text.push(']');
    Some(text)
}
