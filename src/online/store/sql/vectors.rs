//! Vectors in values, and how far apart two of them are.

use std::cmp::Ordering;

use crate::{
    error::{Error, Result},
    model::value::{Kind, Value},
};

/// The measures of distance Feast knows in SQL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Metric {
    Cosine,
    L1,
    L2,
    InnerProduct,
}

impl Metric {
    /// As a caller or the configuration names it.
    pub(crate) fn named(name: &str) -> Result<Self> {
        match name.to_ascii_lowercase().as_str() {
            "cosine" => Ok(Self::Cosine),
            "l1" => Ok(Self::L1),
            "l2" | "euclidean" => Ok(Self::L2),
            "inner_product" | "dot" => Ok(Self::InnerProduct),
            _ => Err(
                Error::invalid(format!("`{name}` is no distance metric of this online store"))
                    .hint("use `cosine`, `L2`, `L1` or `inner_product`"),
            ),
        }
    }

    /// The smaller, the nearer; the inner product counts negative, as pgvector has it.
    pub(crate) fn distance(self, a: &[f32], b: &[f32]) -> f64 {
        let pairs = || a.iter().zip(b).map(|(a, b)| (f64::from(*a), f64::from(*b)));
        let dot = || pairs().map(|(a, b)| a * b).sum::<f64>();
        match self {
            Self::L1 => pairs().map(|(a, b)| (a - b).abs()).sum(),
            Self::L2 => pairs().map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt(),
            Self::InnerProduct => -dot(),
            Self::Cosine => {
                let norm = |v: &[f32]| v.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
                1.0 - dot() / (norm(a) * norm(b))
            }
        }
    }
}

/// Nearest first; what has no distance comes last.
pub(crate) fn nearer(a: f64, b: f64) -> Ordering {
    a.is_nan().cmp(&b.is_nan()).then(a.total_cmp(&b))
}

/// The numbers of a value that Feast takes for a vector.
pub(crate) fn floats(value: &Value) -> Option<Vec<f32>> {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        reason = "vectors are kept in single precision"
    )]
    let numbers = match value.val.as_ref()? {
        Kind::FloatListVal(list) => list.val.clone(),
        Kind::DoubleListVal(list) => list.val.iter().map(|number| *number as f32).collect(),
        Kind::Int32ListVal(list) => list.val.iter().map(|number| *number as f32).collect(),
        Kind::Int64ListVal(list) => list.val.iter().map(|number| *number as f32).collect(),
        _ => return None,
    };
    Some(numbers)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn distances_are_those_of_pgvector() {
        let (a, b) = ([1.0, 2.0, 3.0], [4.0, 6.0, 3.0]);
        let distance = |name: &str| Metric::named(name).unwrap().distance(&a, &b);
        assert!((distance("L2") - 5.0).abs() < 1e-12);
        assert!((distance("l1") - 7.0).abs() < 1e-12);
        assert!((distance("inner_product") + 25.0).abs() < 1e-12);
        assert!((distance("cosine") - (1.0 - 25.0 / (14f64.sqrt() * 61f64.sqrt()))).abs() < 1e-12);
        assert!(Metric::named("manhattan?").is_err());
    }

    #[test]
    fn what_has_no_distance_comes_last() {
        let mut distances = [f64::NAN, 2.0, -1.0];
        distances.sort_by(|a, b| nearer(*a, *b));
        assert!(distances[2].is_nan());
        assert_eq!(distances[..2], [-1.0, 2.0]);
    }
}
