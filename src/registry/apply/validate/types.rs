//! Changes of types that would make values unreadable which are in the online store already.
//!
//! Values are stored with their own protobuf type and rows under a key made of the join keys with theirs, so
//! a definition that says otherwise does not change them. For a view that is online and was materialized:
//!
//! * A feature's type may become a wider one of which every old value is a value too, since readers convert
//!   it: Int32 to Int64 or Float64, Float32 to Float64, the same inside lists and sets, Map to Struct and
//!   back, UnixTimestamp to ZonedTimestamp, Bytes to PdfBytes or ImageBytes. A type that was not known may
//!   become any. All else is refused.
//! * A join key may not change its name, type or number: rows would be looked for under keys that none has.
//!   This also holds for the entity it comes from.
//!
//! A view with the tag `thali.allow-type-change: "true"` is left alone, and so is one that asks for a version
//! by its number. New and missing features are no change of type. Views that are only written to by pushes
//! record no intervals, so nothing is known about them and nothing is refused.

use std::collections::BTreeMap;

use super::{World, decode, type_name};
use crate::{
    error::{Error, Result},
    model::{Object, ObjectKind, ValueType, feature_view::DUMMY_ENTITY_NAME},
    proto::feast::core,
    registry::apply::version,
};

/// The tag by which a view says that its stored values do not matter.
const OPT_IN: &str = "thali.allow-type-change";

/// What of a view says how its values and keys are stored.
struct Stored {
    is_materialized: bool,
    is_free: bool,
    entities: Vec<String>,
    features: Vec<core::FeatureSpecV2>,
    keys: Vec<core::FeatureSpecV2>,
}

impl Stored {
    /// `None` for kinds of view that are not materialized.
    fn of(view: &Object) -> Result<Option<Self>> {
        let is_free = |tags: &BTreeMap<String, String>| tags.get(OPT_IN).is_some_and(|value| value == "true");
        let materialized = |meta: Option<core::FeatureViewMeta>| {
            meta.is_some_and(|meta| !meta.materialization_intervals.is_empty())
        };
        Ok(match view.kind {
            ObjectKind::FeatureView => {
                let view = decode::<core::FeatureView>(view)?;
                let spec = view.spec.unwrap_or_default();
                Some(Self {
                    is_materialized: spec.online && materialized(view.meta),
                    is_free: is_free(&spec.tags),
                    entities: spec.entities,
                    features: spec.features,
                    keys: spec.entity_columns,
                })
            }
            ObjectKind::StreamFeatureView => {
                let view = decode::<core::StreamFeatureView>(view)?;
                let spec = view.spec.unwrap_or_default();
                Some(Self {
                    is_materialized: spec.online && materialized(view.meta),
                    is_free: is_free(&spec.tags),
                    entities: spec.entities,
                    features: spec.features,
                    keys: spec.entity_columns,
                })
            }
            _ => None,
        })
    }
}

/// Refuses an object that changes what is stored under it.
pub(super) fn check(object: &Object, world: &World<'_>, stored: &World<'_>) -> Result<()> {
    let Some(old) = stored.get(&(object.kind, object.name.as_str())) else {
        return Ok(());
    };
    if old.bytes == object.bytes {
        return Ok(());
    }
    match object.kind {
        ObjectKind::FeatureView | ObjectKind::StreamFeatureView => view(old, object),
        ObjectKind::Entity => entity(old, object, world, stored),
        _ => Ok(()),
    }
}

fn view(old: &Object, new: &Object) -> Result<()> {
    if version::parse_version(version::version_text(new)?)?.is_some() {
        return Ok(());
    }
    let (Some(before), Some(after)) = (Stored::of(old)?, Stored::of(new)?) else {
        return Ok(());
    };
    if !before.is_materialized || after.is_free {
        return Ok(());
    }
    let label = format!("{} `{}`", new.kind.label(), new.name);
    keys(&label, &before.keys, &after.keys)?;
    for field in &after.features {
        let is_key = |key: &core::FeatureSpecV2| key.name == field.name;
        let known = before.features.iter().find(|known| known.name == field.name);
        if let Some(known) = known
            && !before.keys.iter().any(is_key)
            && !is_readable(known.value_type, field.value_type)
        {
            return Err(refusal(
                &label,
                &format!("feature `{}`", field.name),
                &type_name(known.value_type),
                &type_name(field.value_type),
            ));
        }
    }
    Ok(())
}

/// Join keys come in any order; a side that names none of them says nothing about them.
fn keys(label: &str, before: &[core::FeatureSpecV2], after: &[core::FeatureSpecV2]) -> Result<()> {
    if before.is_empty() || after.is_empty() {
        return Ok(());
    }
    let names = |keys: &[core::FeatureSpecV2]| {
        let mut names: Vec<String> = keys.iter().map(|key| key.name.clone()).collect();
        names.sort_unstable();
        names
    };
    let (old, new) = (names(before), names(after));
    if old != new {
        return Err(refusal(label, "the join keys", &old.join(", "), &new.join(", ")));
    }
    for key in after {
        let known = before.iter().find(|known| known.name == key.name);
        if let Some(known) = known
            && is_other(known.value_type, key.value_type)
        {
            let (from, to) = (type_name(known.value_type), type_name(key.value_type));
            return Err(refusal(label, &format!("join key `{}`", key.name), &from, &to));
        }
    }
    Ok(())
}

fn entity(old: &Object, new: &Object, world: &World<'_>, stored: &World<'_>) -> Result<()> {
    if new.name == DUMMY_ENTITY_NAME {
        return Ok(());
    }
    let before = decode::<core::Entity>(old)?.spec.unwrap_or_default();
    let after = decode::<core::Entity>(new)?.spec.unwrap_or_default();
    let (what, from, to) = if is_other(before.value_type, after.value_type) {
        let what = format!("join key `{}`", before.join_key);
        (what, type_name(before.value_type), type_name(after.value_type))
    } else if !before.join_key.is_empty() && before.join_key != after.join_key {
        ("the join key".to_owned(), before.join_key, after.join_key)
    } else {
        return Ok(());
    };
    let mut dependent = Vec::new();
    for ((kind, name), view) in stored {
        let Some(known) = Stored::of(view)? else { continue };
        let free = match world.get(&(*kind, *name)) {
            Some(wanted) => Stored::of(wanted)?.is_none_or(|wanted| wanted.is_free),
            None => true,
        };
        if known.is_materialized && !free && known.entities.contains(&new.name) {
            dependent.push(format!("`{name}`"));
        }
    }
    if dependent.is_empty() {
        return Ok(());
    }
    dependent.sort_unstable();
    Err(refusal(
        &format!("entity `{}`, which {} use", new.name, dependent.join(", ")),
        &what,
        &from,
        &to,
    ))
}

fn refusal(label: &str, what: &str, from: &str, to: &str) -> Error {
    Error::invalid(format!(
        "{label}: {what} would change from {from} to {to}, but values are in the online store as they were"
    ))
    .hint(format!(
        "give it a new name, or delete the view and apply it again, or tag the view `{OPT_IN}: \"true\"` and \
         materialize it anew"
    ))
}

/// Whether two known types differ.
fn is_other(from: i32, to: i32) -> bool {
    from != 0 && to != 0 && from != to
}

/// Whether readers of the new type can read values of the old one.
fn is_readable(from: i32, to: i32) -> bool {
    use ValueType as T;
    if !is_other(from, to) {
        return true;
    }
    matches!(
        (T::from_number(from), T::from_number(to)),
        (T::Int32, T::Int64 | T::Double)
            | (T::Float, T::Double)
            | (T::Int32List, T::Int64List | T::DoubleList)
            | (T::FloatList, T::DoubleList)
            | (T::Int32Set, T::Int64Set | T::DoubleSet)
            | (T::FloatSet, T::DoubleSet)
            | (T::Map, T::Struct)
            | (T::Struct, T::Map)
            | (T::UnixTimestamp, T::ZonedTimestamp)
            | (T::Bytes, T::PdfBytes | T::ImageBytes)
    )
}
