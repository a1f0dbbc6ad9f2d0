//! The columns of a Delta table: what its log calls them, what its files call them, and their types.

use std::{collections::HashMap, sync::Arc};

use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef, TimeUnit};
use datafusion::{common::ScalarValue, datasource::table_schema::TableSchema};
use serde::Deserialize;
use serde_json::Value as Json;

use super::log::Snapshot;
use crate::error::{Error, Result};

/// What a column is called in files, where that is another name.
const PHYSICAL_NAME: &str = "delta.columnMapping.physicalName";

/// See the module.
#[derive(Debug)]
pub(super) struct Columns {
    /// As the table has them.
    pub(super) schema: SchemaRef,
    /// As scans have them: those in the files, under the names of the files, then the partition columns.
    pub(super) scanned: TableSchema,
    /// Where in a scan each column of the table is.
    pub(super) places: Vec<usize>,
}

#[derive(Deserialize)]
struct Struct {
    fields: Vec<Column>,
}

#[derive(Deserialize)]
struct Column {
    name: String,
    r#type: Json,
    #[serde(default)]
    metadata: HashMap<String, Json>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct List {
    element_type: Json,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Map {
    key_type: Json,
    value_type: Json,
}

impl Columns {
    /// # Errors
    /// `Unsupported` naming a column whose type is not understood.
    pub(super) fn of(snapshot: &Snapshot) -> Result<Self> {
        let metadata = &snapshot.metadata;
        let wrong = |error| Error::invalid(format!("the schema of the Delta table is wrong: {error}"));
        let table: Struct = serde_json::from_str(&metadata.schema_string).map_err(wrong)?;
        let is_mapped = snapshot.has_names_of_files;
        let mut fields = Vec::with_capacity(table.fields.len());
        let mut in_files = Vec::with_capacity(table.fields.len());
        for column in &table.fields {
            let data_type = data_type(&column.r#type, is_mapped)
                .map_err(|error| error.context(format!("column `{}` of the Delta table", column.name)))?;
            let name = column.name_in_files(is_mapped)?;
            in_files.push(Arc::new(Field::new(name, data_type.clone(), true)));
            fields.push(Arc::new(Field::new(&column.name, data_type, true)));
        }
        let place = |name: &String| {
            let place = fields.iter().position(|field| field.name() == name);
            place.ok_or_else(|| Error::invalid(format!("the Delta table has no partition column `{name}`")))
        };
        let partitions = metadata
            .partition_columns
            .iter()
            .map(place)
            .collect::<Result<Vec<_>>>()?;
        for &place in &partitions {
            let field = &fields[place];
            if field.data_type().is_nested() || *field.data_type() == DataType::Binary {
                return Err(Error::unsupported(format!(
                    "the Delta table has parts by `{}`, whose values ({}) are not read from its log",
                    field.name(),
                    field.data_type()
                )));
            }
        }
        let order = (0..fields.len())
            .filter(|place| !partitions.contains(place))
            .chain(partitions.iter().copied());
        let order: Vec<usize> = order.collect();
        let stored = order[..fields.len() - partitions.len()].iter();
        let stored: Vec<FieldRef> = stored.map(|&place| Arc::clone(&in_files[place])).collect();
        let partitions = partitions.iter().map(|&place| Arc::clone(&in_files[place]));
        let scanned = TableSchema::builder(Arc::new(Schema::new(stored)))
            .with_table_partition_cols(partitions.collect::<Vec<_>>())
            .build();
        let mut places = vec![0; order.len()];
        for (scanned, &place) in order.iter().enumerate() {
            places[place] = scanned;
        }
        Ok(Self {
            schema: Arc::new(Schema::new(fields)),
            scanned,
            places,
        })
    }

    /// The values of the partition columns of a file.
    pub(super) fn partition(&self, values: &HashMap<String, Option<String>>) -> Result<Vec<ScalarValue>> {
        let columns = self.scanned.table_partition_cols().iter();
        let value = |column: &FieldRef| {
            let text = values.get(column.name()).ok_or_else(|| {
                let name = column.name();
                Error::invalid(format!(
                    "a file of the Delta table has no value for its partition column `{name}`"
                ))
            })?;
            match text {
                // The protocol has no other way to say null for some writers, and this is one for all types.
                None => Ok(ScalarValue::try_from(column.data_type())?),
                Some(text) if text.is_empty() => Ok(ScalarValue::try_from(column.data_type())?),
                Some(text) => {
                    let value = ScalarValue::try_from_string(text.clone(), column.data_type());
                    value.map_err(|error| {
                        Error::invalid(format!(
                            "`{text}` is no value of the Delta table's partition column `{}`: {}",
                            column.name(),
                            error.strip_backtrace()
                        ))
                    })
                }
            }
        };
        columns.map(value).collect()
    }
}

impl Column {
    fn name_in_files(&self, is_mapped: bool) -> Result<&str> {
        if !is_mapped {
            return Ok(&self.name);
        }
        let name = self.metadata.get(PHYSICAL_NAME).and_then(Json::as_str);
        name.ok_or_else(|| {
            let name = &self.name;
            Error::invalid(format!(
                "the Delta table maps its columns by name, but does not say what its files call `{name}`"
            ))
        })
    }
}

/// The Arrow type of a column's.
fn data_type(of: &Json, is_mapped: bool) -> Result<DataType> {
    let unknown = || Error::unsupported(format!("the type {of} is not understood"));
    let told = |error| Error::invalid(format!("the type {of} is wrong: {error}"));
    let field = |name: &str, of: &Json| Ok::<_, Error>(Field::new(name, data_type(of, is_mapped)?, true));
    if let Some(name) = of.as_str() {
        return simple(name).ok_or_else(unknown);
    }
    Ok(match of.get("type").and_then(Json::as_str) {
        Some("struct") => {
            let parts = Struct::deserialize(of).map_err(told)?.fields;
            let part = |part: &Column| {
                if part.name_in_files(is_mapped)? != part.name {
                    return Err(Error::unsupported(format!(
                        "its part `{}` has another name in the files, which thali does not read",
                        part.name
                    )));
                }
                field(&part.name, &part.r#type)
            };
            DataType::Struct(parts.iter().map(part).collect::<Result<Fields>>()?)
        }
        Some("array") => {
            let list = List::deserialize(of).map_err(told)?;
            DataType::List(Arc::new(field("element", &list.element_type)?))
        }
        Some("map") => {
            let map = Map::deserialize(of).map_err(told)?;
            let key = field("key", &map.key_type)?.with_nullable(false);
            let entry = DataType::Struct([key, field("value", &map.value_type)?].into_iter().collect());
            DataType::Map(Arc::new(Field::new("key_value", entry, false)), false)
        }
        _ => return Err(unknown()),
    })
}

fn simple(name: &str) -> Option<DataType> {
    Some(match name {
        "string" => DataType::Utf8,
        "long" => DataType::Int64,
        "integer" => DataType::Int32,
        "short" => DataType::Int16,
        "byte" => DataType::Int8,
        "float" => DataType::Float32,
        "double" => DataType::Float64,
        "boolean" => DataType::Boolean,
        "binary" => DataType::Binary,
        "date" => DataType::Date32,
        "timestamp" => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        "timestamp_ntz" => DataType::Timestamp(TimeUnit::Microsecond, None),
        _ => {
            let (precision, scale) = name
                .strip_prefix("decimal(")?
                .strip_suffix(')')?
                .split_once(',')?;
            DataType::Decimal128(precision.trim().parse().ok()?, scale.trim().parse().ok()?)
        }
    })
}
