//! Searching a view's rows by similarity: what is asked, and what comes back.

use bytes::Bytes;
use serde_json::Value as Json;

use super::RowBatch;

/// A search of one view. At least one of `vector` and `text` is there.
#[derive(Debug, Clone, PartialEq)]
pub struct Search {
    /// The features to answer, in order.
    pub features: Vec<String>,
    pub vector: Option<VectorQuery>,
    /// Words that a row's texts should hold.
    pub text: Option<String>,
    /// Conditions on values; rows that do not meet them are left out before the best are picked.
    pub filter: Option<Filter>,
    /// The most rows to answer.
    pub top_k: usize,
}

/// The vector to be near to.
#[derive(Debug, Clone, PartialEq)]
pub struct VectorQuery {
    /// The feature that holds the vectors.
    pub field: String,
    pub vector: Vec<f32>,
    /// As the caller named it (`cosine`, `L2`, `L1`, `inner_product`); `None`: the store's own.
    pub metric: Option<String>,
}

/// A condition on a row's values.
#[derive(Debug, Clone, PartialEq)]
pub enum Filter {
    Compare {
        op: Comparison,
        /// A feature.
        key: String,
        /// A list for `In` and `NotIn`.
        value: Json,
    },
    And(Vec<Self>),
    Or(Vec<Self>),
}

/// How a value is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    Equal,
    NotEqual,
    Greater,
    GreaterOrEqual,
    Less,
    LessOrEqual,
    In,
    NotIn,
}

/// What was found, best first.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Found {
    /// Serialized entity keys.
    pub keys: Vec<Bytes>,
    /// One row per key, its width that of [`Search::features`].
    pub rows: RowBatch,
    /// One per key when a vector was given: smaller is nearer.
    pub distances: Option<Vec<f64>>,
    /// One per key when a text was given: greater is better.
    pub text_ranks: Option<Vec<f64>>,
}
