//! Which names objects may have, alone and beside each other.
//!
//! Feast takes any text. Refused here besides what Feast refuses: what its SQL tables cannot hold (255
//! characters), what nobody can type or see (control characters, blanks at the ends), and names that differ
//! from another of the same kind only in case, because the tables of MySQL and MariaDB cannot tell them
//! apart. Only new names are judged by these: what somebody has stored already can be applied again.

use std::collections::{HashMap, HashSet};

use super::{World, class_name};
use crate::{
    error::{Error, Kind, Result},
    model::{Object, ObjectKind},
    registry::apply::{ApplyMode, problems::Problems},
};

/// What a column of Feast's SQL tables holds.
const MAX_LENGTH: usize = 255;

/// Whether the name may be used.
pub(super) fn usable(object: &Object, stored: &World<'_>, mode: ApplyMode, problems: &mut Problems) -> bool {
    let (kind, name) = (object.kind, object.name.as_str());
    if name.is_empty() {
        problems.push(Error::invalid(match kind {
            kind if kind.is_view() => "Feature view needs a name.".to_owned(),
            ObjectKind::Entity => "The entity does not have a name.".to_owned(),
            kind => format!("{} without a name", kind.label()),
        }));
        return false;
    }
    if kind.is_view()
        && let Some(problem) = reserved(name)
    {
        problems.push(Error::invalid(problem));
        return false;
    }
    let is_new = !stored.contains_key(&(kind, name));
    if is_new && problems.keep(well_formed(kind.label(), name)).is_none() {
        return false;
    }
    let is_project = kind == ObjectKind::Project && mode == ApplyMode::Repository;
    !is_project || problems.keep(super::new_project_name(name)).is_some()
}

/// Feast's words about the two characters that references are made with.
fn reserved(name: &str) -> Option<String> {
    if name.contains('@') {
        return Some(format!(
            "Feature view name '{name}' must not contain '@'. The '@' character is reserved for version-qualified \
             references (e.g., 'fv@v2:feature')."
        ));
    }
    name.contains(':').then(|| {
        format!(
            "Feature view name '{name}' must not contain ':'. The ':' character is reserved as the separator in \
             fully qualified feature references (e.g., 'feature_view:feature_name')."
        )
    })
}

/// A name that can be stored, typed and seen. `what` is named in front of it.
pub(super) fn well_formed(what: &str, name: &str) -> Result<()> {
    let length = name.chars().count();
    if length > MAX_LENGTH {
        let start: String = name.chars().take(20).collect();
        return Err(Error::invalid(format!(
            "the name of {what} `{start}…` has {length} characters, at most {MAX_LENGTH} can be stored"
        )));
    }
    if name.chars().any(char::is_control) {
        return Err(Error::invalid(format!(
            "the name of {what} `{}` holds a control character",
            name.escape_debug()
        )));
    }
    if name.trim() != name {
        return Err(Error::invalid(format!(
            "the name of {what} `{name}` begins or ends with a blank"
        )));
    }
    Ok(())
}

/// Refuses names that stand for two objects of one kind, within the request and beside what is stored.
/// Views have a rule of their own, over all kinds of view.
pub(super) fn duplicates(incoming: &[Object], stored: &World<'_>, problems: &mut Problems) {
    let mut owners: HashMap<(ObjectKind, String), &str> = HashMap::new();
    for (kind, name) in stored.keys() {
        owners.insert((*kind, name.to_lowercase()), name);
    }
    let mut seen: HashMap<(ObjectKind, String), &str> = HashMap::new();
    for object in incoming.iter().filter(|object| !object.kind.is_view()) {
        let (kind, name) = (object.kind, object.name.as_str());
        let key = (kind, name.to_lowercase());
        let is_new = !stored.contains_key(&(kind, name));
        let known = owners.get(&key).filter(|known| is_new && **known != name);
        if let Some(known) = known
            && !incoming
                .iter()
                .any(|other| other.kind == kind && other.name == **known)
        {
            problems.push(
                Error::new(
                    Kind::InvalidArgument,
                    format!(
                        "{} `{name}` differs only in case from `{known}`, which exists",
                        kind.label()
                    ),
                )
                .hint(format!("use `{known}`, or delete it first")),
            );
        }
        if seen.insert(key, name).is_none() {
            continue;
        }
        problems.push(match kind {
            ObjectKind::DataSource => Error::invalid(format!(
                "Multiple data sources share the same case-insensitive name {}.",
                name.to_lowercase()
            )),
            kind => Error::invalid(format!("{} `{name}` is defined twice", kind.label()))
                .hint("names that differ only in case are the same"),
        });
    }
}

/// One namespace for the four kinds of view, without regard to case.
pub(super) fn conflicting_views(
    incoming: &[Object],
    world: &World<'_>,
    stored: &World<'_>,
    problems: &mut Problems,
) {
    let mut owners: HashMap<String, Vec<&Object>> = HashMap::new();
    for object in world.values().copied().filter(|object| object.kind.is_view()) {
        owners.entry(object.name.to_lowercase()).or_default().push(object);
    }
    let sent: HashSet<(ObjectKind, &str)> = incoming
        .iter()
        .map(|object| (object.kind, object.name.as_str()))
        .collect();
    let mut seen: HashMap<String, &Object> = HashMap::new();
    for object in incoming.iter().filter(|object| object.kind.is_view()) {
        let key = object.name.to_lowercase();
        let is_new = !stored.contains_key(&(object.kind, object.name.as_str()));
        // Two that are stored already, by an older or another writer, may both be applied again.
        let clashes = |other: &&Object| {
            let is_another = other.kind != object.kind || other.name != object.name;
            is_another && (is_new || other.name == object.name)
        };
        let others = owners.get(&key).into_iter().flatten().copied();
        let mut clash = others.filter(clashes).min_by_key(|other| other.kind);
        if let Some(earlier) = seen.insert(key, object) {
            clash = Some(earlier);
        } else if clash.is_some_and(|clash| sent.contains(&(clash.kind, clash.name.as_str()))) {
            continue;
        }
        if let Some(other) = clash {
            problems.push(conflict(object, other));
        }
    }
}

fn conflict(object: &Object, other: &Object) -> Error {
    let (name, existing, new) = (&object.name, class_name(other.kind), class_name(object.kind));
    let message = if existing == new {
        format!(
            "Multiple {existing}s with name '{name}' found. Feature view names must be case-insensitively unique. \
             It may be necessary to ignore certain files in your feature repository by using a .feastignore file."
        )
    } else {
        format!(
            "Feature view name '{name}' is already used by a {existing}. Cannot register a {new} with the same \
             name. Feature view names must be unique across FeatureView, StreamFeatureView, and OnDemandFeatureView."
        )
    };
    Error::new(Kind::ConflictingFeatureViewNames, message)
}
