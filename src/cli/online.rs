//! `thali get-online-features`: one look into the online store, without a server.

use std::process::ExitCode;

use clap::Args;
use serde_json::{Map, Value as Json};

use super::{Global, Outcome, key_value, output};
use crate::{
    error::{Error, Result},
    online::{
        json::write_response,
        plan::Wanted,
        serve::{Given, Request, get_online_features},
    },
};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// An entity value or request value as KEY=VALUE; repeat a key for more rows
    #[arg(short, long = "entities", required = true, value_name = "KEY=VALUE", value_parser = key_value)]
    entities: Vec<(String, String)>,
    #[command(flatten)]
    wanted: super::features::Wanted,
    /// Call features VIEW__FEATURE
    #[arg(long)]
    full_feature_names: bool,
}

pub(super) async fn run(global: &Global, arguments: Arguments) -> Outcome {
    let (context, _telemetry) = global.open("warn").await?;
    let request = Request {
        wanted: match arguments.wanted.feature_service {
            Some(service) => Wanted::service(service),
            None => Wanted::features(arguments.wanted.features),
        },
        full_names: arguments.full_feature_names,
        version_metadata: false,
        columns: columns(arguments.entities)?,
    };
    let response = get_online_features(&context, request).await?;
    let mut bytes = Vec::new();
    write_response(&mut bytes, &response)?;
    output::json(&by_name(&bytes)?, 4)?;
    Ok(ExitCode::SUCCESS)
}

/// Values by key; the same key again is the next row.
fn columns(entities: Vec<(String, String)>) -> Result<Vec<(String, Given)>> {
    let mut columns: Vec<(String, Vec<Json>)> = Vec::new();
    for (key, value) in entities {
        match columns.iter_mut().find(|(name, _)| *name == key) {
            Some((_, values)) => values.push(Json::String(value)),
            None => columns.push((key, vec![Json::String(value)])),
        }
    }
    let rows = columns.first().map_or(0, |(_, values)| values.len());
    if let Some((name, values)) = columns.iter().find(|(_, values)| values.len() != rows) {
        return Err(Error::invalid(format!(
            "`{name}` has {} values where others have {rows}",
            values.len()
        )));
    }
    Ok(columns
        .into_iter()
        .map(|(name, values)| (name, Given::Json(values)))
        .collect())
}

/// The server's answer as the SDK's `to_dict()`: values by feature name.
fn by_name(bytes: &[u8]) -> Result<Json> {
    let odd = || Error::internal("the answer has no names or values");
    let answer: Json = serde_json::from_slice(bytes).map_err(|error| odd().source_error(error))?;
    let names = answer
        .pointer("/metadata/feature_names")
        .and_then(Json::as_array)
        .ok_or_else(odd)?;
    let results = answer.get("results").and_then(Json::as_array).ok_or_else(odd)?;
    let named = names
        .iter()
        .zip(results)
        .filter_map(|(name, result)| Some((name.as_str()?.to_owned(), result.get("values")?.clone())));
    Ok(Json::Object(named.collect::<Map<_, _>>()))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn repeated_keys_are_rows() {
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let read = columns(vec![
            pair("a", "1"),
            pair("b", "x"),
            pair("a", "2"),
            pair("b", "y"),
        ])
        .unwrap();
        assert_eq!(read.len(), 2);
        assert!(matches!(&read[0].1, Given::Json(values) if values.len() == 2));
        assert!(columns(vec![pair("a", "1"), pair("b", "x"), pair("a", "2")]).is_err());
    }
}
