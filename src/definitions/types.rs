//! Feast's type names in definitions (`Array(Float32)`, `Struct({a: String})`) and how fields carry
//! them in the registry: a number, and tags for what the number cannot say (`feast/field.py`).

use std::{collections::BTreeMap, fmt};

use serde_json::Value as Json;

use crate::model::ValueType;

/// Tag of a struct's fields.
const STRUCT_TAG: &str = "feast:struct_schema";
/// Tag of a collection of collections.
const NESTED_TAG: &str = "feast:nested_inner_type";

/// Primitive types: as written, and as Feast's enum calls them.
const PRIMITIVES: [(&str, &str, ValueType); 18] = [
    ("Invalid", "INVALID", ValueType::Unknown),
    ("Bytes", "BYTES", ValueType::Bytes),
    ("String", "STRING", ValueType::String),
    ("Int32", "INT32", ValueType::Int32),
    ("Int64", "INT64", ValueType::Int64),
    ("Float64", "FLOAT64", ValueType::Double),
    ("Float32", "FLOAT32", ValueType::Float),
    ("Bool", "BOOL", ValueType::Bool),
    ("UnixTimestamp", "UNIX_TIMESTAMP", ValueType::UnixTimestamp),
    ("PdfBytes", "PDF_BYTES", ValueType::PdfBytes),
    ("ImageBytes", "IMAGE_BYTES", ValueType::ImageBytes),
    ("Map", "MAP", ValueType::Map),
    ("Json", "JSON", ValueType::Json),
    ("Uuid", "UUID", ValueType::Uuid),
    ("TimeUuid", "TIME_UUID", ValueType::TimeUuid),
    ("Decimal", "DECIMAL", ValueType::Decimal),
    ("ScalarMap", "SCALAR_MAP", ValueType::ScalarMap),
    ("ZonedTimestamp", "ZONED_TIMESTAMP", ValueType::ZonedTimestamp),
];

/// A type of a definition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum FieldType {
    /// One that a number says.
    Plain(ValueType),
    Array(Box<FieldType>),
    Set(Box<FieldType>),
    Struct(Vec<(String, FieldType)>),
}

/// Names for messages.
pub(super) fn known() -> impl Iterator<Item = &'static str> {
    PRIMITIVES.iter().map(|(name, _, _)| *name).chain([
        "Array(Float32)",
        "Set(String)",
        "Struct({name: String})",
    ])
}

impl FieldType {
    /// Parses a name; `None` when there is no such type.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let (parsed, rest) = parse(text)?;
        (rest.trim().is_empty() && parsed.number().is_some()).then_some(parsed)
    }

    /// The type of a stored field.
    pub(super) fn from_stored(number: i32, tags: &BTreeMap<String, String>) -> Option<Self> {
        let value_type = ValueType::from_number(number);
        let structure = || {
            let Json::Object(fields) = serde_json::from_str(tags.get(STRUCT_TAG)?).ok()? else {
                return None;
            };
            let fields = fields
                .iter()
                .map(|(name, text)| Some((name.clone(), from_enum_text(text.as_str()?)?)));
            Some(Self::Struct(fields.collect::<Option<_>>()?))
        };
        match value_type {
            ValueType::Struct => Some(structure().unwrap_or(Self::Plain(value_type))),
            ValueType::StructList => {
                Some(structure().map_or(Self::Plain(value_type), |inner| Self::Array(Box::new(inner))))
            }
            ValueType::ValueList | ValueType::ValueSet => from_enum_text(tags.get(NESTED_TAG)?),
            ValueType::Unknown if number != 0 => None,
            plain => Some(Self::Plain(plain)),
        }
    }

    /// The number a field is stored with; `None` for collections Feast has none for.
    pub(super) fn number(&self) -> Option<ValueType> {
        Some(match self {
            Self::Plain(value_type) => *value_type,
            Self::Struct(_) => ValueType::Struct,
            Self::Array(inner) => match inner.as_ref() {
                Self::Struct(_) => ValueType::StructList,
                Self::Plain(item) if !is_collection(*item) => {
                    ValueType::from_name(&format!("Array({item})"))?
                }
                _ => ValueType::ValueList,
            },
            Self::Set(inner) => match inner.as_ref() {
                Self::Struct(_) => return None,
                Self::Plain(item) if !is_collection(*item) => ValueType::from_name(&format!("Set({item})"))?,
                _ => ValueType::ValueSet,
            },
        })
    }

    /// The tags a field of this type is stored with, beside the user's.
    pub(super) fn tags(&self) -> Option<(&'static str, String)> {
        match self {
            Self::Struct(fields) => Some((STRUCT_TAG, python_json(fields))),
            Self::Array(inner) => match inner.as_ref() {
                Self::Struct(fields) => Some((STRUCT_TAG, python_json(fields))),
                _ if self.number() == Some(ValueType::ValueList) => Some((NESTED_TAG, self.enum_text())),
                _ => None,
            },
            Self::Set(_) if self.number() == Some(ValueType::ValueSet) => {
                Some((NESTED_TAG, self.enum_text()))
            }
            _ => None,
        }
    }

    /// As Feast writes it into tags: enum names.
    fn enum_text(&self) -> String {
        match self {
            Self::Plain(value_type) => {
                let plain = PRIMITIVES.iter().find(|(_, _, known)| known == value_type);
                // Collections of primitives are plain too: `Array(INT64)` is `Array` of `INT64`.
                plain.map_or_else(
                    || split(*value_type).map_or_else(String::new, |inner| inner.enum_text()),
                    |(_, name, _)| (*name).to_owned(),
                )
            }
            Self::Array(inner) => format!("Array({})", inner.enum_text()),
            Self::Set(inner) => format!("Set({})", inner.enum_text()),
            Self::Struct(fields) => format!("{{\"__struct__\": {}}}", python_json(fields)),
        }
    }
}

/// Whether a plain number is a list or set of something.
fn is_collection(value_type: ValueType) -> bool {
    let name = value_type.name();
    name.starts_with("Array(") || name.starts_with("Set(")
}

/// A plain collection as collection of its items.
fn split(value_type: ValueType) -> Option<FieldType> {
    let name = value_type.name().strip_suffix(')')?;
    let item = |text: &str| ValueType::from_name(text).map(|item| Box::new(FieldType::Plain(item)));
    match name.split_once('(')? {
        ("Array", inner) => Some(FieldType::Array(item(inner)?)),
        ("Set", inner) => Some(FieldType::Set(item(inner)?)),
        _ => None,
    }
}

/// Joins a collection of a plain item into the plain number Feast has for it.
fn collection(make: fn(Box<FieldType>) -> FieldType, inner: FieldType) -> FieldType {
    let whole = make(Box::new(inner));
    match whole.number() {
        Some(ValueType::ValueList | ValueType::ValueSet | ValueType::StructList) | None => whole,
        Some(plain) => FieldType::Plain(plain),
    }
}

/// Parses from the front; answers the rest.
fn parse(text: &str) -> Option<(FieldType, &str)> {
    let text = text.trim_start();
    let end = text
        .find(|c: char| !c.is_ascii_alphanumeric())
        .unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    let inside = || rest.trim_start().strip_prefix('(');
    match name {
        "Array" | "Set" => {
            let (inner, rest) = parse(inside()?)?;
            let rest = rest.trim_start().strip_prefix(')')?;
            let make = if name == "Array" {
                FieldType::Array
            } else {
                FieldType::Set
            };
            Some((collection(make, inner), rest))
        }
        "Struct" if inside().is_some() => {
            let mut rest = inside()?.trim_start().strip_prefix('{')?;
            let mut fields = Vec::new();
            loop {
                let (name, after) = rest.split_once(':')?;
                let (inner, after) = parse(after)?;
                fields.push((name.trim().trim_matches(['"', '\'']).to_owned(), inner));
                let after = after.trim_start();
                if let Some(end) = after.strip_prefix('}') {
                    let rest = end.trim_start().strip_prefix(')')?;
                    return Some((FieldType::Struct(fields), rest));
                }
                rest = after.strip_prefix(',')?;
            }
        }
        "Struct" => Some((FieldType::Plain(ValueType::Struct), rest)),
        _ => {
            let known = PRIMITIVES.iter().find(|(primitive, _, _)| *primitive == name)?;
            Some((FieldType::Plain(known.2), rest))
        }
    }
}

/// Reads what [`FieldType::enum_text`] writes.
fn from_enum_text(text: &str) -> Option<FieldType> {
    if let Some((name, inner)) = text.strip_suffix(')').and_then(|text| text.split_once('(')) {
        let inner = from_enum_text(inner)?;
        return match name {
            "Array" => Some(collection(FieldType::Array, inner)),
            "Set" => Some(collection(FieldType::Set, inner)),
            _ => None,
        };
    }
    if text.starts_with('{') {
        let json: Json = serde_json::from_str(text).ok()?;
        let fields = json.get("__struct__")?.as_object()?;
        let fields = fields
            .iter()
            .map(|(name, text)| Some((name.clone(), from_enum_text(text.as_str()?)?)));
        return Some(FieldType::Struct(fields.collect::<Option<_>>()?));
    }
    PRIMITIVES
        .iter()
        .find(|(_, name, _)| *name == text)
        .map(|(_, _, value_type)| FieldType::Plain(*value_type))
}

/// As Python's `json.dumps` spaces it.
fn python_json(fields: &[(String, FieldType)]) -> String {
    let pairs: Vec<String> = fields
        .iter()
        .map(|(name, inner)| format!("{}: {}", Json::from(name.as_str()), Json::from(inner.enum_text())))
        .collect();
    format!("{{{}}}", pairs.join(", "))
}

impl fmt::Display for FieldType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plain(value_type) => write!(f, "{value_type}"),
            Self::Array(inner) => write!(f, "Array({inner})"),
            Self::Set(inner) => write!(f, "Set({inner})"),
            Self::Struct(fields) => {
                f.write_str("Struct({")?;
                for (index, (name, inner)) in fields.iter().enumerate() {
                    let comma = if index == 0 { "" } else { ", " };
                    write!(f, "{comma}{name}: {inner}")?;
                }
                f.write_str("})")
            }
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn names_numbers_and_tags_agree_with_feast() {
        for (text, number, tag) in [
            ("Int64", 4, None),
            ("Float64", 5, None),
            ("Array(Int64)", 14, None),
            ("Set(String)", 23, None),
            ("Array(Map)", 21, None),
            (
                "Struct({a: String, b: Int64})",
                34,
                Some((STRUCT_TAG, "{\"a\": \"STRING\", \"b\": \"INT64\"}")),
            ),
            (
                "Array(Struct({a: UnixTimestamp}))",
                35,
                Some((STRUCT_TAG, "{\"a\": \"UNIX_TIMESTAMP\"}")),
            ),
            (
                "Array(Array(Int64))",
                42,
                Some((NESTED_TAG, "Array(Array(INT64))")),
            ),
            (
                "Set(Array(Float32))",
                43,
                Some((NESTED_TAG, "Set(Array(FLOAT32))")),
            ),
            (
                "Struct({a: Struct({b: Array(Float64)})})",
                34,
                Some((
                    STRUCT_TAG,
                    "{\"a\": \"{\\\"__struct__\\\": {\\\"b\\\": \\\"Array(FLOAT64)\\\"}}\"}",
                )),
            ),
        ] {
            let parsed = FieldType::parse(text).unwrap();
            assert_eq!(parsed.number().unwrap().number(), number, "{text}");
            assert_eq!(
                parsed
                    .tags()
                    .as_ref()
                    .map(|(name, value)| (*name, value.as_str())),
                tag,
                "{text}"
            );
            assert_eq!(parsed.to_string(), text);
            let tags = parsed
                .tags()
                .map(|(name, value)| (name.to_owned(), value))
                .into_iter()
                .collect();
            assert_eq!(FieldType::from_stored(number, &tags).unwrap(), parsed, "{text}");
        }
        for bad in [
            "Int",
            "int64",
            "Array",
            "Array(Int64",
            "Set(Map)",
            "Struct({})",
            "Int64)",
            "",
        ] {
            assert_eq!(FieldType::parse(bad), None, "{bad}");
        }
    }
}
