//! The bodies of the writing routes, field by field Feast's.

use std::collections::BTreeMap;

use super::{PolicyType, Tags, core, data_source};
use crate::http::openapi::schema::body;

body! {
    pub(in super::super) struct EntityBody {
        pub(super) name: String,
        pub(super) project: String,
        pub(super) join_key: Option<String>,
        pub(super) value_type: Option<i32>,
        pub(super) description: Option<String>,
        pub(super) tags: Option<Tags>,
        pub(super) owner: Option<String>,
    }
}

body! {
    pub(in super::super) struct DataSourceBody {
        pub(super) name: String,
        pub(super) project: String,
        pub(super) r#type: Option<i32>,
        pub(super) timestamp_field: Option<String>,
        pub(super) created_timestamp_column: Option<String>,
        pub(super) date_partition_column: Option<String>,
        pub(super) data_source_class_type: Option<String>,
        pub(super) description: Option<String>,
        pub(super) tags: Option<Tags>,
        pub(super) owner: Option<String>,
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
}

body! {
    struct FileBody {
        uri: Option<String>,
        s3_endpoint_override: Option<String>,
    }
}

body! {
    struct TableBody {
        table: Option<String>,
        query: Option<String>,
        database: Option<String>,
        schema_: Option<String>,
        data_source: Option<String>,
    }
}

body! {
    struct KafkaBody {
        kafka_bootstrap_servers: Option<String>,
        topic: Option<String>,
    }
}

body! {
    struct KinesisBody {
        region: Option<String>,
        stream_name: Option<String>,
    }
}

body! {
    struct SparkBody {
        table: Option<String>,
        path: Option<String>,
        query: Option<String>,
        file_format: Option<String>,
        date_partition_column_format: Option<String>,
    }
}

body! {
    struct CustomBody {
        configuration: Option<String>,
    }
}

impl DataSourceBody {
    /// The options; at most one kind of them is taken, in this order.
    pub(super) fn options(&mut self) -> Option<data_source::Options> {
        use data_source::Options;
        if let Some(file) = self.file_options.take() {
            return Some(Options::FileOptions(data_source::FileOptions {
                uri: file.uri.unwrap_or_default(),
                s3_endpoint_override: file.s3_endpoint_override.unwrap_or_default(),
                ..Default::default()
            }));
        }
        if let Some(kafka) = self.kafka_options.take() {
            return Some(Options::KafkaOptions(data_source::KafkaOptions {
                kafka_bootstrap_servers: kafka.kafka_bootstrap_servers.unwrap_or_default(),
                topic: kafka.topic.unwrap_or_default(),
                ..Default::default()
            }));
        }
        if let Some(spark) = self.spark_options.take() {
            return Some(Options::SparkOptions(data_source::SparkOptions {
                table: spark.table.unwrap_or_default(),
                path: spark.path.unwrap_or_default(),
                query: spark.query.unwrap_or_default(),
                file_format: spark.file_format.unwrap_or_default(),
                date_partition_column_format: spark.date_partition_column_format.unwrap_or_default(),
                ..Default::default()
            }));
        }
        if let Some(kinesis) = self.kinesis_options.take() {
            return Some(Options::KinesisOptions(data_source::KinesisOptions {
                region: kinesis.region.unwrap_or_default(),
                stream_name: kinesis.stream_name.unwrap_or_default(),
                ..Default::default()
            }));
        }
        let custom = self.custom_options.take().and_then(|custom| custom.configuration);
        if let Some(configuration) = custom.filter(|text| !text.is_empty()) {
            let configuration = configuration.into_bytes().into();
            return Some(Options::CustomOptions(data_source::CustomSourceOptions {
                configuration,
            }));
        }
        self.warehouse()
    }

    /// The options of a table in some warehouse.
    fn warehouse(&mut self) -> Option<data_source::Options> {
        use data_source::Options;
        let parts = |body: TableBody| {
            (
                body.table.unwrap_or_default(),
                body.query.unwrap_or_default(),
                body.database.unwrap_or_default(),
                body.schema_.unwrap_or_default(),
            )
        };
        if let Some((table, query, ..)) = self.bigquery_options.take().map(parts) {
            return Some(Options::BigqueryOptions(data_source::BigQueryOptions {
                table,
                query,
            }));
        }
        if let Some((table, query, database, schema)) = self.snowflake_options.take().map(parts) {
            let options = data_source::SnowflakeOptions {
                table,
                query,
                schema,
                database,
            };
            return Some(Options::SnowflakeOptions(options));
        }
        if let Some((table, query, database, schema)) = self.redshift_options.take().map(parts) {
            let options = data_source::RedshiftOptions {
                table,
                query,
                schema,
                database,
            };
            return Some(Options::RedshiftOptions(options));
        }
        if let Some((table, query, ..)) = self.trino_options.take().map(parts) {
            return Some(Options::TrinoOptions(data_source::TrinoOptions { table, query }));
        }
        let body = self.athena_options.take()?;
        let data_source = body.data_source.clone().unwrap_or_default();
        let (table, query, database, _) = parts(body);
        Some(Options::AthenaOptions(data_source::AthenaOptions {
            table,
            query,
            database,
            data_source,
        }))
    }
}

body! {
    pub(in super::super) struct FieldBody {
        pub(super) name: String,
        pub(super) value_type: Option<i32>,
        pub(super) description: Option<String>,
    }
}

body! {
    pub(in super::super) struct FeatureViewBody {
        pub(super) name: String,
        pub(super) project: String,
        pub(super) entities: Option<Vec<String>>,
        pub(super) features: Option<Vec<FieldBody>>,
        pub(super) batch_source: Option<String>,
        pub(super) ttl_seconds: Option<i64>,
        pub(super) online: Option<bool>,
        pub(super) description: Option<String>,
        pub(super) tags: Option<Tags>,
        pub(super) owner: Option<String>,
    }
}

body! {
    pub(in super::super) struct ServiceViewBody {
        pub(super) feature_view_name: String,
        pub(super) feature_names: Option<Vec<String>>,
    }
}

body! {
    pub(in super::super) struct FeatureServiceBody {
        pub(super) name: String,
        pub(super) project: String,
        pub(super) features: Vec<ServiceViewBody>,
        pub(super) description: Option<String>,
        pub(super) tags: Option<Tags>,
        pub(super) owner: Option<String>,
    }
}

body! {
    pub(in super::super) struct PermissionBody {
        pub(super) name: String,
        pub(super) project: String,
        pub(super) types: Option<Vec<String>>,
        pub(super) name_patterns: Option<Vec<String>>,
        pub(super) actions: Option<Vec<String>>,
        pub(super) policy: PolicyBody,
        pub(super) tags: Option<Tags>,
        pub(super) required_tags: Option<Tags>,
    }
}

body! {
    /// At most one of them is taken, in this order.
    pub(super) struct PolicyBody {
        role_based_policy: Option<RolesBody>,
        group_based_policy: Option<GroupsBody>,
        namespace_based_policy: Option<NamespacesBody>,
        combined_group_namespace_policy: Option<CombinedBody>,
    }
}

body! {
    struct RolesBody {
        roles: Vec<String>,
    }
}

body! {
    struct GroupsBody {
        groups: Vec<String>,
    }
}

body! {
    struct NamespacesBody {
        namespaces: Vec<String>,
    }
}

body! {
    struct CombinedBody {
        groups: Vec<String>,
        namespaces: Vec<String>,
    }
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

body! {
    pub(in super::super) struct SavedDatasetBody {
        pub(super) name: String,
        pub(super) project: String,
        pub(super) features: Option<Vec<String>>,
        pub(super) join_keys: Option<Vec<String>>,
        pub(super) storage_path: Option<String>,
        pub(super) storage_type: Option<String>,
        pub(super) storage_file_format: Option<String>,
        pub(super) tags: Option<BTreeMap<String, String>>,
        pub(super) full_feature_names: Option<bool>,
        pub(super) feature_service_name: Option<String>,
        pub(super) allow_override: Option<bool>,
        pub(super) namespace: Option<String>,
        pub(super) collection: Option<String>,
        pub(super) description: Option<String>,
    }
}

body! {
    pub(in super::super) struct CreateDatasetBody {
        pub(in super::super) name: String,
        pub(in super::super) project: String,
        pub(in super::super) feature_service_name: Option<String>,
        pub(in super::super) features: Option<Vec<String>>,
        /// `inline` or `reference`.
        pub(in super::super) entity_source_type: Option<String>,
        pub(in super::super) entity_source_path: Option<String>,
        pub(in super::super) entity_keys: Option<Vec<String>>,
        pub(in super::super) entity_values: Option<String>,
        pub(in super::super) start_date: Option<String>,
        pub(in super::super) end_date: Option<String>,
        pub(in super::super) extra_columns: Option<String>,
        pub(in super::super) storage_type: Option<String>,
        pub(in super::super) storage_path: Option<String>,
        pub(in super::super) tags: Option<Tags>,
        pub(in super::super) allow_overwrite: Option<bool>,
    }
}
