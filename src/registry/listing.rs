//! Filtering, sorting and paging of lists by Feast's rules, for both the gRPC and the REST server.
//! Pure functions; they know neither requests nor answers.

use std::{cmp::Ordering, collections::BTreeMap, sync::Arc};

use prost_reflect::{DynamicMessage, MapKey, ReflectMessage, Value};

use crate::{
    error::Result,
    model::Object,
    proto::feast::registry::{PaginationMetadata, PaginationParams, SortingParams},
};

/// The tag that hides a project from listings.
pub(crate) const PROTECTED_PROJECT_TAG: &str = "feast.dev/protected-project";

/// What a list is sorted by: nothing first, then numbers by size and text without case.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum SortKey {
    Missing,
    Number(f64),
    Text(String),
}

impl SortKey {
    pub(crate) fn text(text: &str) -> Self {
        Self::Text(text.to_lowercase())
    }

    fn rank(&self) -> u8 {
        match self {
            Self::Missing => 0,
            Self::Number(_) => 1,
            Self::Text(_) => 2,
        }
    }

    fn compare(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Number(a), Self::Number(b)) => a.total_cmp(b),
            (Self::Text(a), Self::Text(b)) => a.cmp(b),
            _ => self.rank().cmp(&other.rank()),
        }
    }
}

/// Sorts in place when an attribute is named; `desc` in any case reverses, all else ascends.
pub(crate) fn sort<T>(
    items: &mut Vec<T>,
    sorting: Option<&SortingParams>,
    key: impl Fn(&T, &str) -> Result<SortKey>,
) -> Result<()> {
    let Some(sorting) = sorting.filter(|sorting| !sorting.sort_by.trim().is_empty()) else {
        return Ok(());
    };
    let descending = sorting.sort_order.eq_ignore_ascii_case("desc");
    let mut keyed = Vec::with_capacity(items.len());
    for item in items.drain(..) {
        keyed.push((key(&item, &sorting.sort_by)?, item));
    }
    keyed.sort_by(|(a, _), (b, _)| if descending { b.compare(a) } else { a.compare(b) });
    items.extend(keyed.into_iter().map(|(_, item)| item));
    Ok(())
}

/// Cuts the wanted page out and says where it lies. Without both page and limit everything stays.
pub(crate) fn page<T>(items: &mut Vec<T>, params: Option<&PaginationParams>) -> PaginationMetadata {
    let total = items.len();
    if total == 0 {
        return PaginationMetadata::default();
    }
    let total_count = i32::try_from(total).unwrap_or(i32::MAX);
    let wanted = params.and_then(|params| {
        let page = usize::try_from(params.page).ok().filter(|page| *page > 0)?;
        let limit = usize::try_from(params.limit).ok().filter(|limit| *limit > 0)?;
        Some((page, limit, params))
    });
    let Some((page, limit, params)) = wanted else {
        return PaginationMetadata {
            total_count,
            total_pages: 1,
            ..Default::default()
        };
    };
    let start = (page - 1).saturating_mul(limit).min(total);
    let end = start.saturating_add(limit).min(total);
    items.truncate(end);
    items.drain(..start);
    let pages = total.div_ceil(limit);
    PaginationMetadata {
        page: params.page,
        limit: params.limit,
        total_count,
        total_pages: i32::try_from(pages).unwrap_or(i32::MAX),
        has_next: page < pages,
        has_previous: page > 1,
    }
}

/// Keeps the objects that carry all the wanted tags.
///
/// # Errors
/// `Internal` when stored bytes are malformed.
pub(crate) fn keep_tagged(objects: &mut Vec<Arc<Object>>, wanted: &BTreeMap<String, String>) -> Result<()> {
    if wanted.is_empty() {
        return Ok(());
    }
    let mut kept = Vec::new();
    for object in objects.drain(..) {
        if has_tags(&object, wanted)? {
            kept.push(object);
        }
    }
    *objects = kept;
    Ok(())
}

/// Whether the object carries all the wanted tags.
///
/// # Errors
/// `Internal` when stored bytes are malformed.
pub(crate) fn has_tags(object: &Object, wanted: &BTreeMap<String, String>) -> Result<bool> {
    if wanted.is_empty() {
        return Ok(true);
    }
    let tags = tags(object)?;
    Ok(wanted.iter().all(|(key, value)| tags.get(key) == Some(value)))
}

/// The object's tags.
///
/// # Errors
/// `Internal` when stored bytes are malformed.
pub(crate) fn tags(object: &Object) -> Result<BTreeMap<String, String>> {
    let message = object.dynamic()?;
    let tags = field(&message, "tags");
    let Some(Value::Map(tags)) = tags else {
        return Ok(BTreeMap::new());
    };
    let text = |(key, value): (&MapKey, &Value)| Some((key.as_str()?.to_owned(), value.as_str()?.to_owned()));
    Ok(tags.iter().filter_map(text).collect())
}

/// A text field of the object's spec (or of the object, where it has no spec); empty when absent.
///
/// # Errors
/// `Internal` when stored bytes are malformed.
pub(crate) fn text(object: &Object, name: &str) -> Result<String> {
    let value = field(&object.dynamic()?, name);
    Ok(value
        .and_then(|value| value.as_str().map(str::to_owned))
        .unwrap_or_default())
}

/// Seconds of the object's last change, where it says so.
///
/// # Errors
/// `Internal` when stored bytes are malformed.
pub(crate) fn updated_seconds(object: &Object) -> Result<Option<i64>> {
    let Some(Value::Message(at)) = field(&object.dynamic()?, "last_updated_timestamp") else {
        return Ok(None);
    };
    Ok(at
        .get_field_by_name("seconds")
        .and_then(|seconds| seconds.as_i64()))
}

/// The value an object is sorted by: `attribute` is a dotted path of the names Feast's SDK gives the
/// fields, which are those of the spec and of the meta data.
///
/// # Errors
/// `Internal` when stored bytes are malformed.
pub(crate) fn attribute(object: &Object, attribute: &str) -> Result<SortKey> {
    if attribute == "name" {
        return Ok(SortKey::text(&object.name));
    }
    let mut path = attribute.split('.');
    let first = path.next().unwrap_or_default();
    let mut current = field(&object.dynamic()?, first);
    for name in path {
        current = match current {
            Some(Value::Message(message)) => message.get_field_by_name(name).map(|value| value.into_owned()),
            Some(Value::Map(map)) => map.get(&MapKey::String(name.to_owned())).cloned(),
            _ => None,
        };
    }
    Ok(current.map_or(SortKey::Missing, |value| sort_key(&value)))
}

/// The field of that name in the spec, in the meta data or at the top, in this order.
fn field(message: &DynamicMessage, name: &str) -> Option<Value> {
    for holder in ["spec", "meta"] {
        let Some(inner) = message.get_field_by_name(holder) else {
            continue;
        };
        let Some(inner) = inner.as_message() else { continue };
        if let Some(field) = inner.descriptor().get_field_by_name(name) {
            return present(inner, &field);
        }
    }
    let field = message
        .descriptor()
        .get_field_by_name(name)
        .filter(|_| name != "spec" && name != "meta")?;
    present(message, &field)
}

/// A message field that is not set is nothing, a plain one its default, as in Python.
fn present(message: &DynamicMessage, field: &prost_reflect::FieldDescriptor) -> Option<Value> {
    let set = !field.supports_presence() || message.has_field(field);
    set.then(|| message.get_field(field).into_owned())
}

fn sort_key(value: &Value) -> SortKey {
    match value {
        Value::Bool(value) => SortKey::Number(f64::from(u8::from(*value))),
        Value::I32(value) | Value::EnumNumber(value) => SortKey::Number(f64::from(*value)),
        Value::U32(value) => SortKey::Number(f64::from(*value)),
        #[expect(clippy::cast_precision_loss, reason = "only an order is wanted")]
        Value::I64(value) => SortKey::Number(*value as f64),
        #[expect(clippy::cast_precision_loss, reason = "only an order is wanted")]
        Value::U64(value) => SortKey::Number(*value as f64),
        Value::F32(value) => SortKey::Number(f64::from(*value)),
        Value::F64(value) => SortKey::Number(*value),
        Value::String(value) => SortKey::text(value),
        Value::Message(message) => moment(message).map_or(SortKey::Missing, SortKey::Number),
        Value::List(items) => {
            let items: Vec<_> = items.iter().filter_map(Value::as_str).collect();
            SortKey::text(&items.join(","))
        }
        Value::Bytes(_) | Value::Map(_) => SortKey::Missing,
    }
}

/// Seconds of a timestamp or duration.
fn moment(message: &DynamicMessage) -> Option<f64> {
    let seconds = message.get_field_by_name("seconds")?.as_i64()?;
    let nanos = message.get_field_by_name("nanos")?.as_i32()?;
    #[expect(
        clippy::cast_precision_loss,
        reason = "seconds of real dates are exact in a double"
    )]
    Some(seconds as f64 + f64::from(nanos) / 1e9)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use prost::Message;

    use super::*;
    use crate::{model::ObjectKind, proto::feast::core};

    fn params(page: i32, limit: i32) -> PaginationParams {
        PaginationParams { page, limit }
    }

    #[test]
    fn paging_follows_feast() {
        let mut none: Vec<u8> = vec![];
        assert_eq!(
            page(&mut none, Some(&params(1, 2))),
            PaginationMetadata::default()
        );

        let mut all = vec![1, 2, 3];
        let meta = page(&mut all, Some(&params(0, 2)));
        assert_eq!(
            (all.len(), meta.total_count, meta.total_pages, meta.page),
            (3, 3, 1, 0)
        );

        let mut second = vec![1, 2, 3];
        let meta = page(&mut second, Some(&params(2, 2)));
        assert_eq!(second, [3]);
        assert_eq!(
            (meta.total_pages, meta.has_next, meta.has_previous),
            (2, false, true)
        );

        let mut beyond = vec![1, 2, 3];
        let meta = page(&mut beyond, Some(&params(9, 2)));
        assert!(beyond.is_empty());
        assert!(meta.has_previous && !meta.has_next);
    }

    fn source(name: &str, owner: &str, seconds: Option<i64>) -> Arc<Object> {
        let meta = seconds.map(|seconds| core::data_source::SourceMeta {
            created_timestamp: Some(prost_types::Timestamp { seconds, nanos: 0 }),
            ..Default::default()
        });
        let proto = core::DataSource {
            name: name.into(),
            owner: owner.into(),
            meta,
            tags: [("team".to_owned(), owner.to_owned())].into(),
            ..Default::default()
        };
        let bytes = proto.encode_to_vec().into();
        Arc::new(Object {
            kind: ObjectKind::DataSource,
            project: "p".into(),
            name: name.into(),
            bytes,
        })
    }

    fn sorted(by: &str, order: &str) -> Vec<String> {
        let mut items = vec![
            source("b", "Z", Some(30)),
            source("C", "y", None),
            source("a", "X", Some(4)),
        ];
        let sorting = SortingParams {
            sort_by: by.into(),
            sort_order: order.into(),
        };
        sort(&mut items, Some(&sorting), |item, by| attribute(item, by)).unwrap();
        items.iter().map(|item| item.name.clone()).collect()
    }

    #[test]
    fn sorting_ignores_case_and_puts_missing_first() {
        assert_eq!(sorted("name", "asc"), ["a", "b", "C"]);
        assert_eq!(sorted("name", "DESC"), ["C", "b", "a"]);
        assert_eq!(sorted("owner", ""), ["a", "C", "b"]);
        assert_eq!(sorted("created_timestamp", ""), ["C", "a", "b"]);
        assert_eq!(sorted("nothing.like_this", ""), ["b", "C", "a"]);
        assert_eq!(sorted(" ", "desc"), ["b", "C", "a"]);
    }

    #[test]
    fn tags_must_all_match() {
        let mut items = vec![source("a", "x", None), source("b", "y", None)];
        keep_tagged(&mut items, &[("team".to_owned(), "y".to_owned())].into()).unwrap();
        assert_eq!(items.len(), 1);
        assert_eq!(items[0].name, "b");
        keep_tagged(
            &mut items,
            &[("team".to_owned(), "y".to_owned()), ("no".into(), "x".into())].into(),
        )
        .unwrap();
        assert!(items.is_empty());
    }
}
