//! [`Response`]: an answer as columns over the store's own batches; values are decoded by whoever
//! renders them, and only then.

use std::{sync::Arc, time::Duration};

use crate::{
    config::TtlMode,
    model::{FeatureView, ValueType, value::Value},
    online::{
        feature_log::Layout,
        plan::{Plan, Slot, Source, Written},
        store::{RowBatch, ViewColumns},
    },
};

/// What a value is worth; the numbers are those of `feast.serving.FieldStatus`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    Present = 1,
    NotFound = 3,
    OutsideMaxAge = 4,
}

impl Status {
    /// The name in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Present => "PRESENT",
            Self::NotFound => "NOT_FOUND",
            Self::OutsideMaxAge => "OUTSIDE_MAX_AGE",
        }
    }
}

/// An answer to a request for online features.
#[derive(Debug)]
pub struct Response {
    pub(super) plan: Arc<Plan>,
    pub(super) rows: usize,
    pub(super) echoed: Vec<(String, Arc<Vec<Value>>)>,
    /// For every group and row, which of the group's keys is its own.
    pub(super) places: Vec<Vec<u32>>,
    pub(super) batches: Vec<RowBatch>,
    pub(super) computed: Vec<Vec<Vec<Value>>>,
    /// By the plan's key columns.
    pub(super) keys: Vec<Arc<Vec<Value>>>,
    /// By the plan's request columns.
    pub(super) request: Vec<Vec<Value>>,
    pub(super) version_metadata: bool,
    /// For every batch, whether what its store does not have counts as present.
    pub(super) unknown_is_present: Vec<bool>,
    pub(super) ttl_mode: TtlMode,
    /// Microseconds since 1970, the moment ttl is judged at.
    pub(super) now: i64,
    /// How long the store took.
    pub read: Duration,
}

/// One column of an answer.
#[derive(Clone, Copy)]
pub enum Column<'a> {
    /// Values that have no event time and are always present.
    Plain(&'a [Value]),
    Stored(Stored<'a>),
}

/// A column of stored values.
#[derive(Clone, Copy)]
pub struct Stored<'a> {
    response: &'a Response,
    /// Which of the store's batches it is in; columns of one batch share their event times.
    pub batch: usize,
    feature: usize,
    places: &'a [u32],
    rows: &'a RowBatch,
    ttl: Option<i64>,
}

impl Response {
    /// The number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The number of features that were asked for.
    pub fn feature_count(&self) -> usize {
        self.plan.outputs.len()
    }

    /// The number of views that were read or computed.
    pub fn view_count(&self) -> usize {
        self.plan.batches().count() + self.plan.on_demand.len()
    }

    /// The columns with their names, in the order they are answered.
    pub fn columns(&self) -> impl Iterator<Item = (&str, Column<'_>)> {
        let echoed = self
            .echoed
            .iter()
            .map(|(name, values)| (name.as_str(), Column::Plain(values.as_slice())));
        let slots = self.slots();
        let outputs = self.plan.outputs.iter().map(move |output| {
            let column = self.column_of(output.source, &slots);
            (output.name.as_str(), column)
        });
        echoed.chain(outputs)
    }

    /// What is taken from a source.
    pub(in crate::online) fn column(&self, source: Source) -> Column<'_> {
        self.column_of(source, &self.slots())
    }

    /// How it is logged, if it is.
    pub(in crate::online) fn plan_log(&self) -> Option<&Arc<Layout>> {
        self.plan.log.as_ref()
    }

    /// When it was answered, in microseconds.
    pub(in crate::online) fn answered_at(&self) -> i64 {
        self.now
    }

    /// By batch its group and ttl.
    fn slots(&self) -> Vec<(usize, Option<i64>)> {
        self.plan
            .batches()
            .map(|(group, columns)| (group, ttl(&columns.table.view)))
            .collect()
    }

    fn column_of(&self, source: Source, slots: &[(usize, Option<i64>)]) -> Column<'_> {
        match source {
            Source::Stored(slot) => self.stored(slot, slots[slot.batch]),
            Source::Computed { view, feature } => Column::Plain(&self.computed[view][feature]),
            Source::Key(column) => Column::Plain(self.keys[column].as_slice()),
            Source::Request(column) => Column::Plain(&self.request[column]),
        }
    }

    /// The declared types of [`Response::columns`], in their order; `Unknown` where the values tell.
    pub fn types(&self) -> impl Iterator<Item = ValueType> {
        let echoed = self.echoed.iter().map(|_| ValueType::Unknown);
        let batches: Vec<&ViewColumns> = self.plan.batches().map(|(_, columns)| columns).collect();
        let outputs = self.plan.outputs.iter().map(move |output| match output.source {
            Source::Stored(slot) => {
                let columns = batches[slot.batch];
                let declared = columns.table.view.feature(&columns.features[slot.feature]);
                declared.map_or(ValueType::Unknown, |field| field.value_type)
            }
            Source::Computed { view, feature } => {
                self.plan.on_demand[view].program.view.features[feature].value_type
            }
            Source::Key(_) | Source::Request(_) => ValueType::Unknown,
        });
        echoed.chain(outputs)
    }

    fn stored(&self, slot: Slot, (group, ttl): (usize, Option<i64>)) -> Column<'_> {
        Column::Stored(Stored {
            response: self,
            batch: slot.batch,
            feature: slot.feature,
            places: &self.places[group],
            rows: &self.batches[slot.batch],
            ttl,
        })
    }

    /// What is known from earlier answers of the same plan.
    pub fn written(&self) -> &Written {
        &self.plan.written
    }

    /// The names of the columns that come before the features.
    pub fn key_names(&self) -> impl Iterator<Item = &str> {
        self.echoed.iter().map(|(name, _)| name.as_str())
    }

    /// The names of the features, in the order they are answered.
    pub fn feature_names(&self) -> impl Iterator<Item = &str> {
        self.plan.outputs.iter().map(|output| output.name.as_str())
    }

    /// Names and versions of the views read, if the request asked for them.
    pub fn view_versions(&self) -> Option<&[(String, u32)]> {
        self.version_metadata
            .then_some(self.plan.view_versions.as_slice())
    }
}

/// Microseconds a view's values are valid for.
fn ttl(view: &FeatureView) -> Option<i64> {
    view.ttl.and_then(|ttl| i64::try_from(ttl.as_micros()).ok())
}

impl<'a> Stored<'a> {
    /// For every row its event time, in microseconds; `None` where the store has no row.
    pub fn event_times(&self) -> impl Iterator<Item = Option<i64>> + 'a + use<'a> {
        let rows = self.rows;
        self.places
            .iter()
            .map(move |&place| rows.event_times[place as usize])
    }

    /// For every row its encoded value (`None` is null) and status.
    pub fn cells(&self) -> impl Iterator<Item = (Option<&'a [u8]>, Status)> + 'a + use<'a> {
        let Self {
            response,
            feature,
            rows,
            ttl,
            ..
        } = *self;
        let oldest = match response.ttl_mode {
            TtlMode::Python => None,
            TtlMode::Status | TtlMode::Null => ttl.map(|ttl| response.now.saturating_sub(ttl)),
        };
        let unknown_is_present = response.unknown_is_present[self.batch];
        self.places.iter().map(move |&place| {
            let place = place as usize;
            let Some(time) = rows.event_times[place] else {
                return (
                    None,
                    if unknown_is_present {
                        Status::Present
                    } else {
                        Status::NotFound
                    },
                );
            };
            let value = rows.get(place, feature);
            if oldest.is_some_and(|oldest| time < oldest) {
                let kept = if response.ttl_mode == TtlMode::Null {
                    None
                } else {
                    value
                };
                return (kept, Status::OutsideMaxAge);
            }
            (
                value,
                if value.is_some() || unknown_is_present {
                    Status::Present
                } else {
                    Status::NotFound
                },
            )
        })
    }
}
