//! The bodies of the writing routes, field by field Feast's.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{PolicyType, Tags, core, data_source};

/// What most objects have.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Described {
    pub(super) description: Option<String>,
    pub(super) tags: Option<Tags>,
    pub(super) owner: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(in super::super) struct EntityBody {
    pub(super) name: String,
    pub(super) project: String,
    pub(super) join_key: Option<String>,
    pub(super) value_type: Option<i32>,
    #[serde(flatten)]
    pub(super) described: Described,
}

#[derive(Debug, Deserialize)]
pub(in super::super) struct DataSourceBody {
    pub(super) name: String,
    pub(super) project: String,
    pub(super) r#type: Option<i32>,
    pub(super) timestamp_field: Option<String>,
    pub(super) created_timestamp_column: Option<String>,
    pub(super) date_partition_column: Option<String>,
    pub(super) data_source_class_type: Option<String>,
    #[serde(flatten)]
    pub(super) described: Described,
    #[serde(flatten)]
    pub(super) options: OptionsBody,
}

/// At most one of them is taken, in this order.
#[derive(Debug, Default, Deserialize)]
pub(super) struct OptionsBody {
    file_options: Option<FileBody>,
    bigquery_options: Option<TableBody>,
    snowflake_options: Option<TableBody>,
    redshift_options: Option<TableBody>,
    kafka_options: Option<KafkaBody>,
    spark_options: Option<SparkBody>,
    trino_options: Option<TableBody>,
    athena_options: Option<TableBody>,
    kinesis_options: Option<KinesisBody>,
    custom_options: Option<CustomBody>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct FileBody {
    uri: String,
    s3_endpoint_override: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct TableBody {
    table: String,
    query: Option<String>,
    database: String,
    schema_: String,
    data_source: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct KafkaBody {
    kafka_bootstrap_servers: String,
    topic: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct KinesisBody {
    region: String,
    stream_name: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct SparkBody {
    table: String,
    path: String,
    query: Option<String>,
    file_format: Option<String>,
    date_partition_column_format: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct CustomBody {
    configuration: Option<String>,
}

impl OptionsBody {
    pub(super) fn into_proto(self) -> Option<data_source::Options> {
        use data_source::Options;
        if let Some(file) = self.file_options {
            return Some(Options::FileOptions(data_source::FileOptions {
                uri: file.uri,
                s3_endpoint_override: file.s3_endpoint_override.unwrap_or_default(),
                ..Default::default()
            }));
        }
        if let Some(TableBody { table, query, .. }) = self.bigquery_options {
            let query = query.unwrap_or_default();
            return Some(Options::BigqueryOptions(data_source::BigQueryOptions {
                table,
                query,
            }));
        }
        if let Some(TableBody {
            table,
            query,
            database,
            schema_: schema,
            ..
        }) = self.snowflake_options
        {
            let query = query.unwrap_or_default();
            return Some(Options::SnowflakeOptions(data_source::SnowflakeOptions {
                table,
                query,
                schema,
                database,
            }));
        }
        if let Some(TableBody {
            table,
            query,
            database,
            schema_: schema,
            ..
        }) = self.redshift_options
        {
            let query = query.unwrap_or_default();
            return Some(Options::RedshiftOptions(data_source::RedshiftOptions {
                table,
                query,
                schema,
                database,
            }));
        }
        if let Some(KafkaBody {
            kafka_bootstrap_servers,
            topic,
        }) = self.kafka_options
        {
            let options = data_source::KafkaOptions {
                kafka_bootstrap_servers,
                topic,
                ..Default::default()
            };
            return Some(Options::KafkaOptions(options));
        }
        if let Some(spark) = self.spark_options {
            return Some(Options::SparkOptions(data_source::SparkOptions {
                table: spark.table,
                path: spark.path,
                query: spark.query.unwrap_or_default(),
                file_format: spark.file_format.unwrap_or_default(),
                date_partition_column_format: spark.date_partition_column_format.unwrap_or_default(),
                ..Default::default()
            }));
        }
        if let Some(TableBody { table, query, .. }) = self.trino_options {
            let query = query.unwrap_or_default();
            return Some(Options::TrinoOptions(data_source::TrinoOptions { table, query }));
        }
        if let Some(TableBody {
            table,
            query,
            database,
            data_source,
            ..
        }) = self.athena_options
        {
            return Some(Options::AthenaOptions(data_source::AthenaOptions {
                table,
                query: query.unwrap_or_default(),
                database,
                data_source: data_source.unwrap_or_default(),
            }));
        }
        if let Some(KinesisBody { region, stream_name }) = self.kinesis_options {
            let options = data_source::KinesisOptions {
                region,
                stream_name,
                ..Default::default()
            };
            return Some(Options::KinesisOptions(options));
        }
        let configuration = self
            .custom_options?
            .configuration
            .filter(|text| !text.is_empty())?;
        let configuration = configuration.into_bytes().into();
        Some(Options::CustomOptions(data_source::CustomSourceOptions {
            configuration,
        }))
    }
}

#[derive(Debug, Deserialize)]
pub(in super::super) struct FieldBody {
    pub(super) name: String,
    pub(super) value_type: Option<i32>,
    pub(super) description: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(in super::super) struct FeatureViewBody {
    pub(super) name: String,
    pub(super) project: String,
    pub(super) entities: Option<Vec<String>>,
    pub(super) features: Option<Vec<FieldBody>>,
    pub(super) batch_source: Option<String>,
    pub(super) ttl_seconds: Option<i64>,
    pub(super) online: Option<bool>,
    #[serde(flatten)]
    pub(super) described: Described,
}

#[derive(Debug, Deserialize)]
pub(in super::super) struct ServiceViewBody {
    pub(super) feature_view_name: String,
    pub(super) feature_names: Option<Vec<String>>,
}

#[derive(Debug, Deserialize)]
pub(in super::super) struct FeatureServiceBody {
    pub(super) name: String,
    pub(super) project: String,
    pub(super) features: Vec<ServiceViewBody>,
    #[serde(flatten)]
    pub(super) described: Described,
}

#[derive(Debug, Deserialize)]
pub(in super::super) struct PermissionBody {
    pub(super) name: String,
    pub(super) project: String,
    #[serde(default)]
    pub(super) types: Vec<String>,
    #[serde(default)]
    pub(super) name_patterns: Vec<String>,
    #[serde(default)]
    pub(super) actions: Vec<String>,
    pub(super) policy: PolicyBody,
    pub(super) tags: Option<Tags>,
    pub(super) required_tags: Option<Tags>,
}

/// At most one of them is taken, in this order.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct PolicyBody {
    role_based_policy: Option<RolesBody>,
    group_based_policy: Option<GroupsBody>,
    namespace_based_policy: Option<NamespacesBody>,
    combined_group_namespace_policy: Option<CombinedBody>,
}

#[derive(Debug, Deserialize)]
struct RolesBody {
    roles: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct GroupsBody {
    groups: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct NamespacesBody {
    namespaces: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct CombinedBody {
    groups: Vec<String>,
    namespaces: Vec<String>,
}

impl PolicyBody {
    pub(super) fn into_proto(self) -> Option<PolicyType> {
        if let Some(RolesBody { roles }) = self.role_based_policy {
            return Some(PolicyType::RoleBasedPolicy(core::RoleBasedPolicy { roles }));
        }
        if let Some(GroupsBody { groups }) = self.group_based_policy {
            return Some(PolicyType::GroupBasedPolicy(core::GroupBasedPolicy { groups }));
        }
        if let Some(NamespacesBody { namespaces }) = self.namespace_based_policy {
            return Some(PolicyType::NamespaceBasedPolicy(core::NamespaceBasedPolicy {
                namespaces,
            }));
        }
        let CombinedBody { groups, namespaces } = self.combined_group_namespace_policy?;
        Some(PolicyType::CombinedGroupNamespacePolicy(
            core::CombinedGroupNamespacePolicy { groups, namespaces },
        ))
    }
}

#[derive(Debug, Deserialize)]
pub(in super::super) struct SavedDatasetBody {
    pub(super) name: String,
    pub(super) project: String,
    #[serde(default)]
    pub(super) features: Vec<String>,
    #[serde(default)]
    pub(super) join_keys: Vec<String>,
    pub(super) storage_path: Option<String>,
    pub(super) storage_type: Option<String>,
    pub(super) storage_file_format: Option<String>,
    pub(super) tags: Option<BTreeMap<String, String>>,
    #[serde(default)]
    pub(super) full_feature_names: bool,
    pub(super) feature_service_name: Option<String>,
    #[serde(default)]
    pub(super) allow_override: bool,
    #[serde(default)]
    pub(super) namespace: String,
    #[serde(default)]
    pub(super) collection: String,
    #[serde(default)]
    pub(super) description: String,
}
