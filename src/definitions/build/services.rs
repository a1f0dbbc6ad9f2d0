//! Feature services, permissions and saved datasets.

use super::Builder;
use crate::{
    definitions::syntax::{ACTIONS, LoggingDefinition, PERMISSION_TYPES, PolicyDefinition, StorageKind},
    model::{FeatureRef, ObjectKind},
    offline::postgres,
    proto::feast::core::{
        self, CombinedGroupNamespacePolicy, GroupBasedPolicy, LoggingConfig, NamespaceBasedPolicy,
        RoleBasedPolicy,
        data_source::FileOptions,
        logging_config::{Destination, FileDestination},
        policy::PolicyType,
        saved_dataset_storage::Kind,
    },
};

/// The order in which Feast lists every type of a permission that names none
/// (`feast/feast_object.py:ALL_RESOURCE_TYPES`).
const EVERY_TYPE: [i32; 12] = [10, 0, 1, 2, 3, 11, 4, 5, 6, 7, 8, 9];

impl Builder<'_> {
    pub(super) fn services(&mut self) {
        for definition in &self.document.feature_services {
            let name = &definition.name;
            let what = format!("feature service `{}`", name.text);
            if definition.features.is_empty() {
                self.report(name.place.error(format!("{what} without `features`")));
            }
            let mut features = Vec::new();
            for wanted in &definition.features {
                features.extend(self.projection(&what, wanted).map(|(projection, _)| projection));
            }
            if features.len() < definition.features.len() {
                self.broken(ObjectKind::FeatureService, &name.text);
                continue;
            }
            let spec = core::FeatureServiceSpec {
                name: name.text.clone(),
                project: self.project.to_owned(),
                features,
                tags: definition.common.tags.clone(),
                description: definition.common.description.clone(),
                owner: definition.common.owner.clone(),
                precompute_online: definition.precompute_online,
                logging_config: definition.logging.as_ref().map(logging),
            };
            let service = core::FeatureService {
                spec: Some(spec),
                meta: None,
            };
            self.put(ObjectKind::FeatureService, &name.text, &service);
        }
    }

    pub(super) fn permissions(&mut self) {
        for definition in &self.document.permissions {
            let number = |name: &&str| {
                PERMISSION_TYPES
                    .iter()
                    .find(|(known, _)| known == name)
                    .map(|(_, n)| *n)
            };
            let mut types: Vec<i32> = definition.types.iter().filter_map(number).collect();
            if types.is_empty() {
                types = EVERY_TYPE.to_vec();
            }
            let action = |name: &&str| ACTIONS.iter().position(|known| known == name);
            let actions = definition.actions.iter().filter_map(action);
            let spec = core::PermissionSpec {
                name: definition.name.text.clone(),
                project: self.project.to_owned(),
                types,
                name_patterns: definition.name_patterns.clone(),
                required_tags: definition.required_tags.clone(),
                actions: actions.filter_map(|index| i32::try_from(index).ok()).collect(),
                policy: Some(policy(&definition.policy)),
                tags: definition.tags.clone(),
            };
            let permission = core::Permission {
                spec: Some(spec),
                meta: None,
            };
            self.put(ObjectKind::Permission, &definition.name.text, &permission);
        }
    }

    pub(super) fn datasets(&mut self) {
        for definition in &self.document.saved_datasets {
            let name = &definition.name;
            let what = format!("saved dataset `{}`", name.text);
            for reference in &definition.features {
                self.check_reference(&what, name, reference);
            }
            let storage = match &definition.storage {
                StorageKind::File {
                    path,
                    s3_endpoint_override,
                } => Kind::FileStorage(FileOptions {
                    file_format: None,
                    uri: path.clone(),
                    s3_endpoint_override: s3_endpoint_override.clone(),
                }),
                StorageKind::Table(table) => Kind::CustomStorage(postgres::storage(table)),
            };
            let spec = core::SavedDatasetSpec {
                name: name.text.clone(),
                project: self.project.to_owned(),
                features: definition.features.clone(),
                join_keys: definition.join_keys.clone(),
                full_feature_names: definition.full_feature_names,
                storage: Some(core::SavedDatasetStorage { kind: Some(storage) }),
                tags: definition.tags.clone(),
                feature_service_name: definition.feature_service.clone(),
                namespace: definition.namespace.clone(),
                collection: definition.collection.clone(),
                description: definition.description.clone(),
                ..Default::default()
            };
            let dataset = core::SavedDataset {
                spec: Some(spec),
                meta: None,
            };
            self.put(ObjectKind::SavedDataset, &name.text, &dataset);
        }
    }

    fn check_reference(&mut self, what: &str, name: &crate::definitions::reader::Name, reference: &str) {
        let parsed = match FeatureRef::parse(reference) {
            Ok(parsed) => parsed,
            Err(error) => {
                self.report(name.place.error(format!("{what}: {}", error.one_line())));
                return;
            }
        };
        let Some(view) = self.views.get(&parsed.view) else {
            let known: Vec<String> = self.views.keys().cloned().collect();
            let wanted = crate::definitions::reader::Name {
                text: parsed.view,
                place: name.place.clone(),
            };
            self.missing(ObjectKind::FeatureView, what, &wanted, &known);
            return;
        };
        let features = &view.projection.feature_columns;
        if features.iter().all(|feature| feature.name != parsed.feature) {
            let text = format!(
                "{what}: feature view `{}` has no feature `{}`",
                parsed.view, parsed.feature
            );
            let known: Vec<String> = features.iter().map(|feature| feature.name.clone()).collect();
            let problem = name
                .place
                .error(text)
                .suggest(&parsed.feature, known.iter().map(String::as_str));
            self.report(problem);
        }
    }
}

fn logging(definition: &LoggingDefinition) -> LoggingConfig {
    let LoggingDefinition {
        path,
        s3_endpoint_override,
        partition_by,
        sample_rate,
    } = definition;
    LoggingConfig {
        sample_rate: *sample_rate,
        destination: Some(Destination::FileDestination(FileDestination {
            path: path.clone(),
            s3_endpoint_override: s3_endpoint_override.clone(),
            partition_by: partition_by.clone(),
        })),
    }
}

fn policy(definition: &PolicyDefinition) -> core::Policy {
    let PolicyDefinition {
        roles,
        groups,
        namespaces,
    } = definition;
    let policy = match (roles.is_empty(), groups.is_empty(), namespaces.is_empty()) {
        (false, _, _) => PolicyType::RoleBasedPolicy(RoleBasedPolicy { roles: roles.clone() }),
        (true, false, false) => PolicyType::CombinedGroupNamespacePolicy(CombinedGroupNamespacePolicy {
            groups: groups.clone(),
            namespaces: namespaces.clone(),
        }),
        (true, _, true) => PolicyType::GroupBasedPolicy(GroupBasedPolicy {
            groups: groups.clone(),
        }),
        (true, true, false) => PolicyType::NamespaceBasedPolicy(NamespaceBasedPolicy {
            namespaces: namespaces.clone(),
        }),
    };
    core::Policy {
        policy_type: Some(policy),
        ..Default::default()
    }
}
