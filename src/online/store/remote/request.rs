//! What is asked of the other side, and which part of its answer belongs where.

use indexmap::IndexMap;
use prost::Message as _;
use serde_json::{Map, Value as Json, json};

use super::answer::Answer;
use crate::{
    error::{Error, Result},
    model::{
        entity_key::{self, Version},
        feature_view::DUMMY_JOIN_KEY,
        value::{self, Kind, Value},
    },
    online::store::{KeyGroup, RowBatch, Table, ViewColumns, WriteBatch},
};

/// One request for features: groups of views that can be asked for together.
pub(super) struct Question<'a> {
    pub(super) body: Json,
    /// Which batches of the whole request these are.
    pub(super) places: Vec<usize>,
    views: Vec<&'a ViewColumns>,
    rows: usize,
}

/// A question in the making.
struct Draft<'a> {
    entities: IndexMap<String, Vec<Json>>,
    rows: usize,
    views: Vec<(usize, &'a ViewColumns)>,
}

/// As few questions as the groups allow: they share one when they have the same number of rows, no join key
/// and no view twice.
pub(super) fn questions(groups: &[KeyGroup], version: Version) -> Result<Vec<Question<'_>>> {
    let mut drafts: Vec<Draft<'_>> = Vec::new();
    let mut place = 0;
    let mut empty = Vec::new();
    for group in groups {
        let views: Vec<(usize, &ViewColumns)> = (place..).zip(group.views.iter()).collect();
        place += views.len();
        let Some((_, first)) = views.first() else {
            continue;
        };
        if group.keys.is_empty() {
            empty.extend(views);
            continue;
        }
        let entities = columns(&group.keys.iter().collect::<Vec<_>>(), &first.table, version)?;
        let fits = |draft: &&mut Draft<'_>| {
            draft.rows == group.keys.len()
                && entities.keys().all(|key| !draft.entities.contains_key(key))
                && views.iter().all(|(_, view)| {
                    draft
                        .views
                        .iter()
                        .all(|(_, known)| known.table.name != view.table.name)
                })
        };
        match drafts.iter_mut().find(fits) {
            Some(draft) => {
                draft.entities.extend(entities);
                draft.views.extend(views);
            }
            None => drafts.push(Draft {
                entities,
                rows: group.keys.len(),
                views,
            }),
        }
    }
    let mut questions: Vec<Question<'_>> = drafts.into_iter().map(Draft::finish).collect();
    if let Some(last) = questions.first_mut() {
        // Nothing is asked for views without keys; their batches have no rows.
        last.places.extend(empty.iter().map(|(place, _)| *place));
    }
    Ok(questions)
}

impl<'a> Draft<'a> {
    fn finish(self) -> Question<'a> {
        let mut features: Vec<String> = Vec::new();
        for (_, view) in &self.views {
            for feature in view.features.iter() {
                let reference = format!("{}:{feature}", reference(&view.table));
                if !features.contains(&reference) {
                    features.push(reference);
                }
            }
        }
        Question {
            body: json!({
                "features": features,
                "entities": Map::from_iter(self.entities.into_iter().map(|(name, column)| (name, Json::Array(column)))),
                "full_feature_names": true,
            }),
            places: self.views.iter().map(|(place, _)| *place).collect(),
            views: self.views.into_iter().map(|(_, view)| view).collect(),
            rows: self.rows,
        }
    }
}

impl Question<'_> {
    /// The batches in the answer, by [`Question::places`].
    pub(super) fn batches(&self, answer: &Answer) -> Result<Vec<RowBatch>> {
        let views = self.views.iter().map(|view| self.batch(view, answer));
        let missing = self.places.len() - self.views.len();
        let empty = std::iter::repeat_with(|| Ok(RowBatch::default())).take(missing);
        views.chain(empty).collect()
    }

    fn batch(&self, view: &ViewColumns, answer: &Answer) -> Result<RowBatch> {
        let mut batch = RowBatch::empty(self.rows, view.features.len());
        for (target, feature) in view.features.iter().enumerate() {
            let plain = format!("{}__{feature}", view.table.view.name);
            let column = answer
                .column(&plain)
                .or_else(|| answer.column(&format!("{}__{feature}", reference(&view.table))))
                .ok_or_else(|| Error::invalid(format!("it lacks `{plain}`")))?;
            if column.rows() != self.rows {
                return Err(Error::invalid(format!(
                    "`{plain}` has {} rows where {} were asked for",
                    column.rows(),
                    self.rows
                )));
            }
            let field = view.table.view.feature(feature);
            for row in 0..self.rows {
                let cell = column.cell(row, field.map(|field| field.value_type))?;
                if let Some(time) = cell.time {
                    batch.event_times[row] =
                        Some(batch.event_times[row].map_or(time, |known| known.max(time)));
                }
                if let Some(value) = &cell.value {
                    batch.put(row, target, value);
                }
            }
        }
        Ok(batch)
    }
}

/// How a request names the view, or the version of it that the table is of.
fn reference(table: &Table) -> String {
    let version = table
        .name
        .strip_prefix(&table.view.name)
        .and_then(|rest| rest.strip_prefix("_v"));
    match version {
        Some(number) => format!("{}@v{number}", table.view.name),
        None => table.view.name.clone(),
    }
}

/// Entity keys as columns by join key.
fn columns(keys: &[&bytes::Bytes], table: &Table, version: Version) -> Result<IndexMap<String, Vec<Json>>> {
    let mut columns: IndexMap<String, Vec<Json>> = IndexMap::new();
    for key in keys {
        for (name, value) in entity(key, table, version)? {
            columns
                .entry(name)
                .or_default()
                .push(value::json::to_json(&value));
        }
    }
    Ok(columns)
}

/// The values of an entity key. One of the old form does not say where its names end; the view knows.
fn entity(key: &[u8], table: &Table, version: Version) -> Result<Vec<(String, Value)>> {
    if version == Version::V3 {
        return entity_key::deserialize(key);
    }
    let view = &table.view;
    let mut names: Vec<&str> = view.join_keys.iter().map(|key| key.name.as_str()).collect();
    if view.is_entityless() {
        names = vec![DUMMY_JOIN_KEY];
    }
    names.sort_unstable();
    let old_names: usize = names.iter().map(|name| 4 + name.len()).sum();
    let mut new = entity_key::prefix(&names, Version::V3);
    new.extend_from_slice(key.get(old_names..).unwrap_or_default());
    entity_key::deserialize(&new)
}

/// Rows as Feast's client sends them.
pub(super) fn frame(table: &Table, batch: &WriteBatch, rows: &[usize], version: Version) -> Result<Json> {
    let keys: Vec<&bytes::Bytes> = rows.iter().map(|row| &batch.keys[*row]).collect();
    let mut frame = columns(&keys, table, version)?;
    if table.view.is_entityless() {
        frame.shift_remove(DUMMY_JOIN_KEY);
    }
    for (column, feature) in batch.features.iter().enumerate() {
        let values = rows
            .iter()
            .map(|row| Ok(sent(&Value::decode(batch.row(*row)[column].clone())?)))
            .collect::<Result<Vec<_>>>()?;
        frame.insert(feature.clone(), values);
    }
    // Feast's server looks for its source's own names; its client sends these, which thali takes as well.
    let source = table.view.batch_source.as_deref();
    let named = |own: Option<&str>, otherwise: &str| {
        own.filter(|own| !own.is_empty()).unwrap_or(otherwise).to_owned()
    };
    let event = named(
        source.map(|source| source.timestamp_field.as_str()),
        "event_timestamp",
    );
    let created = named(
        source.map(|source| source.created_timestamp_column.as_str()),
        "created",
    );
    let times = rows.iter().map(|row| Ok(json!(naive(batch.event_times[*row])?)));
    frame.insert(event, times.collect::<Result<_>>()?);
    let times = rows.iter().map(|row| match batch.created(*row) {
        Some(time) => Ok(json!(naive(time)?)),
        // Feast's server wants a time in every row.
        None => Ok(json!(naive(batch.event_times[*row])?)),
    });
    frame.insert(created, times.collect::<Result<_>>()?);
    Ok(Json::Object(
        frame
            .into_iter()
            .map(|(name, column)| (name, Json::Array(column)))
            .collect(),
    ))
}

/// A time in UTC without saying so, as Feast's client writes it.
fn naive(micros: i64) -> Result<String> {
    let time = chrono::DateTime::from_timestamp_micros(micros);
    let time = time.ok_or_else(|| Error::invalid(format!("{micros} µs since 1970 is no time")))?;
    Ok(time.format("%Y-%m-%dT%H:%M:%S%.6f").to_string())
}

/// A value as Feast's client sends it: maps are texts, so that they do not become columns of structs.
fn sent(value: &Value) -> Json {
    let json = value::json::to_json(value);
    match (&value.val, json) {
        (Some(Kind::MapVal(_) | Kind::StructVal(_)), json) => Json::String(json.to_string()),
        (Some(Kind::MapListVal(_) | Kind::StructListVal(_)), Json::Array(items)) => {
            items.iter().map(|item| Json::String(item.to_string())).collect()
        }
        (_, json) => json,
    }
}
