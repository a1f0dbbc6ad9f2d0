//! How far two distributions are apart: the population stability index over bins, and the statistic of
//! Kolmogorov and Smirnov over sorted numbers.
//!
//! Both are never quite nothing for samples of the same distribution, the less so the smaller they are. Each
//! therefore comes with what chance alone exceeds once in a hundred times.

use super::statistics::Categories;

/// Bins of numbers: as many as the index is usually taken over, which its usual limit is meant for.
const BINS: usize = 10;
/// Rows that an empty bin is taken to have, so that the index stays finite.
const EMPTY: f64 = 0.5;
/// Of the normal distribution, what is exceeded once in a hundred times.
const ONE_IN_HUNDRED: f64 = 2.326;
/// Of Kolmogorov's distribution.
const KOLMOGOROV_ONE_IN_HUNDRED: f64 = 1.628;

/// A measure, and what chance alone would exceed once in a hundred times.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Measure {
    pub(super) value: f64,
    pub(super) by_chance: f64,
}

/// The index over counts of the same bins.
fn index(bins: &[(u64, u64)]) -> Option<Measure> {
    let used: Vec<_> = bins.iter().filter(|(one, other)| one + other > 0).collect();
    let sum = |side: fn(&(u64, u64)) -> u64| used.iter().map(|bin| side(bin)).sum::<u64>();
    let (expected, actual) = (real(sum(|bin| bin.0)), real(sum(|bin| bin.1)));
    if expected == 0.0 || actual == 0.0 {
        return None;
    }
    let part = |(one, other): &&(u64, u64)| {
        let one = real(*one).max(EMPTY) / expected;
        let other = real(*other).max(EMPTY) / actual;
        (other - one) * (other / one).ln()
    };
    let freedom = real(used.len() as u64 - 1);
    Some(Measure {
        value: used.iter().map(part).sum(),
        by_chance: chi_square(freedom) * (1.0 / expected + 1.0 / actual),
    })
}

/// What a chi-square exceeds once in a hundred times (Wilson and Hilferty).
fn chi_square(freedom: f64) -> f64 {
    if freedom == 0.0 {
        return 0.0;
    }
    let spread = 2.0 / (9.0 * freedom);
    freedom * (1.0 - spread + ONE_IN_HUNDRED * spread.sqrt()).powi(3)
}

/// The index of sorted numbers: over the tenths of the reference, or, where it has at most ten different
/// values, over these and everything else.
pub(super) fn index_of_numbers(reference: &[f64], data: &[f64]) -> Option<Measure> {
    let mut values: Vec<f64> = Vec::new();
    for value in reference {
        if values.last() != Some(value) {
            values.push(*value);
        }
        if values.len() > BINS {
            break;
        }
    }
    let counted = |edges: &[f64], bin: &dyn Fn(&[f64], f64) -> usize| {
        let mut bins = vec![(0, 0); edges.len() + 1];
        for value in reference {
            bins[bin(edges, *value)].0 += 1;
        }
        for value in data {
            bins[bin(edges, *value)].1 += 1;
        }
        index(&bins)
    };
    if values.len() <= BINS {
        return counted(&values, &|values, value| {
            let place = values.partition_point(|known| *known < value);
            let is_known = values.get(place) == Some(&value);
            if is_known { place } else { values.len() }
        });
    }
    let tenth = |part: usize| reference.get((part * reference.len()).div_ceil(BINS).saturating_sub(1));
    let mut edges: Vec<f64> = (1..BINS).filter_map(tenth).copied().collect();
    edges.dedup();
    counted(&edges, &|edges, value| {
        edges.partition_point(|edge| *edge < value)
    })
}

/// The index of categories; those that the reference does not have, or that were too many, are one.
pub(super) fn index_of_categories(reference: &Categories, data: &Categories) -> Option<Measure> {
    let mut names: Vec<&str> = reference.counts.keys().map(AsRef::as_ref).collect();
    // Sums of real numbers depend on their order.
    names.sort_unstable();
    let bin = |name: &str| {
        let count = |of: &Categories| of.counts.get(name).copied().unwrap_or_default();
        (count(reference), count(data))
    };
    let mut bins: Vec<_> = names.into_iter().map(bin).collect();
    bins.push((reference.others, data.others));
    index(&bins)
}

/// The greatest distance of the two distribution functions of sorted numbers.
pub(super) fn kolmogorov_smirnov(reference: &[f64], data: &[f64]) -> Option<Measure> {
    if reference.is_empty() || data.is_empty() {
        return None;
    }
    let (sizes, mut at, mut greatest) = (
        (real(reference.len() as u64), real(data.len() as u64)),
        (0, 0),
        0.0_f64,
    );
    while let (Some(one), Some(other)) = (reference.get(at.0), data.get(at.1)) {
        let value = one.min(*other);
        at.0 += reference[at.0..]
            .iter()
            .take_while(|next| **next <= value)
            .count();
        at.1 += data[at.1..].iter().take_while(|next| **next <= value).count();
        let distance = real(at.0 as u64) / sizes.0 - real(at.1 as u64) / sizes.1;
        greatest = greatest.max(distance.abs());
    }
    Some(Measure {
        value: greatest,
        by_chance: KOLMOGOROV_ONE_IN_HUNDRED * (1.0 / sizes.0 + 1.0 / sizes.1).sqrt(),
    })
}

#[expect(clippy::cast_precision_loss, reason = "shares are wanted")]
fn real(count: u64) -> f64 {
    count as f64
}
