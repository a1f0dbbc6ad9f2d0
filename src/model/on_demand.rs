//! [`OnDemandFeatureView`]: a view computed from other views and from the request.

use std::collections::BTreeMap;

use super::{Field, Object, ValueType};
use crate::{
    error::Result,
    proto::feast::core::{self, on_demand_source::Source},
};

/// The tag that holds native expressions, a JSON object from output feature to SQL expression.
pub const EXPRESSIONS_TAG: &str = "thali.expressions";

/// The tag Feast keeps a view's `track_metrics` in.
const TRACK_METRICS_TAG: &str = "feast:track_metrics";

/// One input of an on-demand view.
#[derive(Debug, Clone, PartialEq)]
pub enum OnDemandInput {
    /// Features of another view (by its name), with the projection's alias, if any.
    View {
        view: String,
        alias: String,
        features: Vec<Field>,
        /// What requests call the view's join keys, where that is something else.
        join_key_map: BTreeMap<String, String>,
    },
    /// Columns the caller sends along.
    Request { name: String, fields: Vec<Field> },
}

/// How the outputs are computed.
#[derive(Debug, Clone, PartialEq)]
pub enum Transformation {
    /// SQL expressions by output name, evaluated in process.
    Expressions(BTreeMap<String, String>),
    /// A Python function: its name, source text, dill bytes, and whether it takes data frames.
    Python {
        name: String,
        source: String,
        body: bytes::Bytes,
        pandas: bool,
        singleton: bool,
    },
    /// A Substrait plan.
    Substrait(bytes::Bytes),
    /// Nothing that thali knows.
    Missing,
}

/// An on-demand feature view.
#[derive(Debug, Clone, PartialEq)]
pub struct OnDemandFeatureView {
    pub project: String,
    pub name: String,
    pub features: Vec<Field>,
    pub inputs: Vec<OnDemandInput>,
    pub transformation: Transformation,
    /// Whether outputs are computed on write and stored like a feature view's.
    pub write_to_online_store: bool,
    pub entities: Vec<String>,
    pub join_keys: Vec<Field>,
    pub tags: BTreeMap<String, String>,
    pub enabled: bool,
    /// Whether how long it takes is measured.
    pub track_metrics: bool,
}

impl OnDemandFeatureView {
    /// Reads a stored object.
    ///
    /// # Errors
    /// `Internal` when the bytes are malformed.
    pub fn from_object(object: &Object) -> Result<Self> {
        let proto: core::OnDemandFeatureView = object.decode()?;
        let spec = proto.spec.unwrap_or_default();
        let inputs = spec
            .sources
            .iter()
            .filter_map(|(name, source)| input(name, source))
            .collect();
        Ok(Self {
            project: object.project.clone(),
            name: object.name.clone(),
            features: spec.features.iter().map(Field::from).collect(),
            inputs,
            transformation: transformation(&spec),
            write_to_online_store: spec.write_to_online_store,
            entities: spec.entities.clone(),
            join_keys: spec.entity_columns.iter().map(Field::from).collect(),
            enabled: !spec.disabled,
            track_metrics: spec
                .tags
                .get(TRACK_METRICS_TAG)
                .is_some_and(|tag| tag.eq_ignore_ascii_case("true")),
            tags: spec.tags,
        })
    }
}

fn input(name: &str, source: &core::OnDemandSource) -> Option<OnDemandInput> {
    Some(match source.source.as_ref()? {
        Source::FeatureView(view) => {
            let spec = view.spec.clone().unwrap_or_default();
            OnDemandInput::View {
                view: spec.name,
                alias: String::new(),
                features: spec.features.iter().map(Field::from).collect(),
                join_key_map: BTreeMap::new(),
            }
        }
        Source::FeatureViewProjection(projection) => OnDemandInput::View {
            view: projection.feature_view_name.clone(),
            alias: projection.feature_view_name_alias.clone(),
            features: projection.feature_columns.iter().map(Field::from).collect(),
            join_key_map: projection.join_key_map.clone(),
        },
        Source::RequestDataSource(source) => OnDemandInput::Request {
            name: if source.name.is_empty() {
                name.to_owned()
            } else {
                source.name.clone()
            },
            fields: request_fields(source),
        },
    })
}

/// The schema of a request source (`schema`, or the older `deprecated_schema` map).
pub fn request_fields(source: &core::DataSource) -> Vec<Field> {
    let Some(core::data_source::Options::RequestDataOptions(options)) = &source.options else {
        return Vec::new();
    };
    if !options.schema.is_empty() {
        return options.schema.iter().map(Field::from).collect();
    }
    let old = options.deprecated_schema.iter();
    old.map(|(name, number)| Field {
        name: name.clone(),
        value_type: ValueType::from_number(*number),
        description: String::new(),
        tags: BTreeMap::new(),
        vector_index: false,
    })
    .collect()
}

fn transformation(spec: &core::OnDemandFeatureViewSpec) -> Transformation {
    use core::feature_transformation_v2::Transformation as Proto;
    if let Some(expressions) = spec
        .tags
        .get(EXPRESSIONS_TAG)
        .and_then(|text| serde_json::from_str(text).ok())
    {
        return Transformation::Expressions(expressions);
    }
    match spec
        .feature_transformation
        .as_ref()
        .and_then(|t| t.transformation.as_ref())
    {
        Some(Proto::UserDefinedFunction(udf)) => Transformation::Python {
            name: udf.name.clone(),
            source: udf.body_text.clone(),
            body: udf.body.clone(),
            pandas: spec.mode == "pandas" || (spec.mode.is_empty() && udf.mode != "python"),
            singleton: spec.singleton,
        },
        Some(Proto::SubstraitTransformation(plan)) => Transformation::Substrait(plan.substrait_plan.clone()),
        None => Transformation::Missing,
    }
}
