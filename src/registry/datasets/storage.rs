//! Where a dataset lies, and what it takes from a feature service.

use serde_json::json;

use crate::{
    offline::postgres,
    proto::feast::core::{data_source, saved_dataset_storage},
    registry::Catalog,
};

/// The feature references and join keys of a service, where there is such a service.
pub(crate) fn of_service(catalog: &Catalog, service: &str) -> (Vec<String>, Vec<String>) {
    let mut features = Vec::new();
    let mut keys: Vec<String> = Vec::new();
    let spec = catalog
        .service(service)
        .ok()
        .and_then(|service| service.spec.as_ref());
    for projection in spec.map(|spec| spec.features.as_slice()).unwrap_or_default() {
        let view = &projection.feature_view_name;
        features.extend(
            projection
                .feature_columns
                .iter()
                .map(|field| format!("{view}:{}", field.name)),
        );
        if let Ok(view) = catalog.stored_view(view) {
            keys.extend(view.join_keys.iter().map(|key| key.name.clone()));
        }
    }
    keys.sort();
    keys.dedup();
    (features, keys)
}

/// A place of one of Feast's kinds; a kind that is not known is a file, as in Feast.
pub(crate) fn storage(kind: &str, path: &str, format: &str) -> saved_dataset_storage::Kind {
    use saved_dataset_storage::Kind;
    let table = path.to_owned();
    let custom = |configuration: String| {
        Kind::CustomStorage(data_source::CustomSourceOptions {
            configuration: configuration.into_bytes().into(),
        })
    };
    match kind {
        "bigquery" => Kind::BigqueryStorage(data_source::BigQueryOptions {
            table,
            ..Default::default()
        }),
        "redshift" => Kind::RedshiftStorage(data_source::RedshiftOptions {
            table,
            ..Default::default()
        }),
        "snowflake" => Kind::SnowflakeStorage(data_source::SnowflakeOptions {
            table,
            ..Default::default()
        }),
        "trino" => Kind::TrinoStorage(data_source::TrinoOptions {
            table,
            ..Default::default()
        }),
        "athena" => Kind::AthenaStorage(data_source::AthenaOptions {
            table,
            ..Default::default()
        }),
        "spark" => {
            let file_format = format.to_owned();
            Kind::SparkStorage(data_source::SparkOptions {
                path: table,
                file_format,
                ..Default::default()
            })
        }
        "postgres" => Kind::CustomStorage(postgres::storage(path)),
        "clickhouse" => custom(json!({"name": null, "query": null, "table": path}).to_string()),
        "couchbase" => {
            let mut parts = path.splitn(3, '.').map(str::to_owned);
            let mut next = || parts.next().unwrap_or_default();
            let (database, scope, collection) = (next(), next(), next());
            custom(
                json!({"name": null, "query": null, "database": database, "scope": scope, "collection": collection})
                    .to_string(),
            )
        }
        "custom" => custom(table),
        _ => Kind::FileStorage(data_source::FileOptions {
            uri: table,
            ..Default::default()
        }),
    }
}
