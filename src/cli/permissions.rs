//! `thali permissions check | list-roles | list --verbose`: which permissions concern which resources, by
//! Feast's rules. Nothing is enforced here.

use clap::Subcommand;
use regex::Regex;
use serde_json::Value as Json;

use super::{
    objects::{
        Filter,
        kinds::{camel, class},
    },
    output,
};
use crate::{
    context::Context,
    error::{Error, Result},
    model::{Object, ObjectKind, feature_view::DUMMY_ENTITY_NAME},
    proto::feast::core::{
        Permission, PermissionSpec,
        permission_spec::{AuthzedAction, Type},
        policy::PolicyType,
    },
    registry::Catalog,
};

/// Questions about all permissions together.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Show resources and actions that no permission is about
    Check,
    /// Show the roles that permissions name
    ListRoles {
        /// Show what each role may do to each resource
        #[arg(short, long)]
        verbose: bool,
    },
}

/// In Feast's order.
const ACTIONS: [AuthzedAction; 8] = [
    AuthzedAction::Create,
    AuthzedAction::Describe,
    AuthzedAction::Update,
    AuthzedAction::Delete,
    AuthzedAction::ReadOnline,
    AuthzedAction::ReadOffline,
    AuthzedAction::WriteOnline,
    AuthzedAction::WriteOffline,
];

/// In which order Feast's command goes through the resources.
const RESOURCES: [ObjectKind; 10] = [
    ObjectKind::Entity,
    ObjectKind::FeatureView,
    ObjectKind::StreamFeatureView,
    ObjectKind::OnDemandFeatureView,
    ObjectKind::LabelView,
    ObjectKind::FeatureService,
    ObjectKind::DataSource,
    ObjectKind::ValidationReference,
    ObjectKind::SavedDataset,
    ObjectKind::Permission,
];

/// A permission that is ready to be compared.
struct Rule {
    spec: PermissionSpec,
    types: Vec<Type>,
    patterns: Vec<Regex>,
}

/// Something that may be permitted.
struct Resource {
    name: String,
    kind: ObjectKind,
    class: String,
    /// Only permissions have them.
    required_tags: Option<Json>,
    json: Json,
}

impl Command {
    pub(super) async fn run(self, context: &Context) -> Result<()> {
        let catalog = context.registry.fresh_catalog(&context.config.project).await?;
        let rules = rules(&catalog)?;
        match self {
            Self::Check => check(&rules, &resources(&catalog)?),
            Self::ListRoles { verbose: false } => output::grid("ROLE NAME", &roles(&rules)),
            Self::ListRoles { verbose: true } => list_roles(&rules, &resources(&catalog)?),
        }
        Ok(())
    }
}

fn rules(catalog: &Catalog) -> Result<Vec<Rule>> {
    catalog
        .objects(ObjectKind::Permission)
        .iter()
        .map(|object| {
            let spec = object.decode::<Permission>()?.spec.unwrap_or_default();
            Ok(Rule {
                types: spec.types().collect(),
                patterns: spec
                    .name_patterns
                    .iter()
                    .map(|text| pattern(&spec.name, text))
                    .collect::<Result<_>>()?,
                spec,
            })
        })
        .collect()
}

/// The whole name has to match.
fn pattern(permission: &str, text: &str) -> Result<Regex> {
    Regex::new(&format!("^(?:{text})$")).map_err(|_| {
        Error::invalid(format!(
            "permission `{permission}`: `{text}` is no pattern that can be compared"
        ))
        .hint("look-around and back-references are not understood")
    })
}

fn resources(catalog: &Catalog) -> Result<Vec<Resource>> {
    let objects = RESOURCES.iter().flat_map(|kind| catalog.objects(*kind));
    objects
        .filter(|object| object.name != DUMMY_ENTITY_NAME)
        .map(|object| Resource::new(object))
        .collect()
}

impl Resource {
    fn new(object: &Object) -> Result<Self> {
        let json = object.to_json()?;
        Ok(Self {
            name: object.name.clone(),
            kind: object.kind,
            class: class(object, &json),
            required_tags: (object.kind == ObjectKind::Permission)
                .then(|| json.pointer("/spec/requiredTags").cloned().unwrap_or_default()),
            json,
        })
    }
}

impl Rule {
    /// Whether the permission is about the resource. Required tags are compared with a resource's own
    /// required tags, which only permissions have: so does Feast.
    fn is_about(&self, resource: &Resource) -> bool {
        let tags_fit = resource.required_tags.as_ref().is_none_or(|own| {
            let same = |(key, value): (&String, &String)| own.get(key).and_then(Json::as_str) == Some(value);
            self.spec.required_tags.iter().all(same)
        });
        (self.types.is_empty() || self.types.iter().any(|wanted| is_a(resource.kind, *wanted)))
            && (self.patterns.is_empty()
                || self
                    .patterns
                    .iter()
                    .any(|pattern| pattern.is_match(&resource.name)))
            && tags_fit
    }

    fn allows(&self, action: AuthzedAction) -> bool {
        self.spec.actions().any(|allowed| allowed == action)
    }

    fn roles(&self) -> &[String] {
        match self.policy() {
            Some(PolicyType::RoleBasedPolicy(policy)) => &policy.roles,
            _ => &[],
        }
    }

    fn policy(&self) -> Option<&PolicyType> {
        self.spec.policy.as_ref()?.policy_type.as_ref()
    }

    /// Whether somebody with that role, and without groups and namespaces, passes.
    fn admits(&self, role: &str) -> bool {
        match self.policy() {
            None => true,
            Some(PolicyType::RoleBasedPolicy(policy)) => policy.roles.iter().any(|known| known == role),
            Some(_) => false,
        }
    }
}

/// As Python's classes inherit: a stream view is a feature view too.
fn is_a(kind: ObjectKind, wanted: Type) -> bool {
    match kind {
        ObjectKind::Project => wanted == Type::Project,
        ObjectKind::DataSource => wanted == Type::DataSource,
        ObjectKind::Entity => wanted == Type::Entity,
        ObjectKind::FeatureView => wanted == Type::FeatureView,
        ObjectKind::OnDemandFeatureView => wanted == Type::OnDemandFeatureView,
        ObjectKind::StreamFeatureView => matches!(wanted, Type::StreamFeatureView | Type::FeatureView),
        ObjectKind::LabelView => wanted == Type::LabelView,
        ObjectKind::FeatureService => wanted == Type::FeatureService,
        ObjectKind::SavedDataset => wanted == Type::SavedDataset,
        ObjectKind::ValidationReference => wanted == Type::ValidationReference,
        ObjectKind::Permission => wanted == Type::Permission,
    }
}

fn check(rules: &[Rule], resources: &[Resource]) {
    output::line(format_args!(
        "The following resources are not secured by any permission configuration:"
    ));
    let unsecured = resources
        .iter()
        .filter(|resource| !rules.iter().any(|rule| rule.is_about(resource)));
    let rows: Vec<Vec<String>> = unsecured
        .map(|resource| vec![resource.name.clone(), resource.class.clone()])
        .collect();
    output::table(&["NAME", "TYPE"], &rows);
    output::line(format_args!(
        "The following actions are not secured by any permission configuration (Note: this might not be a \
         security concern, depending on the used APIs):"
    ));
    let mut rows = Vec::new();
    for resource in resources {
        let about: Vec<&Rule> = rules.iter().filter(|rule| rule.is_about(resource)).collect();
        let open = actions(|action| !about.iter().any(|rule| rule.allows(action)));
        if !open.is_empty() {
            rows.push(vec![resource.name.clone(), resource.class.clone(), open]);
        }
    }
    output::table(&["NAME", "TYPE", "UNSECURED ACTIONS"], &rows);
}

/// The names of the actions that are wanted, one a line.
fn actions(wanted: impl Fn(AuthzedAction) -> bool) -> String {
    let names = ACTIONS.into_iter().filter(|action| wanted(*action));
    names
        .map(|action| action.as_str_name())
        .collect::<Vec<_>>()
        .join("\n")
}

/// Every role that a permission names, once each.
fn roles(rules: &[Rule]) -> Vec<String> {
    let mut roles: Vec<String> = rules
        .iter()
        .flat_map(|rule| rule.roles().iter().cloned())
        .collect();
    roles.sort();
    roles.dedup();
    roles
}

fn list_roles(rules: &[Rule], resources: &[Resource]) {
    let mut rows = Vec::new();
    for role in roles(rules) {
        for resource in resources {
            let about: Vec<&Rule> = rules.iter().filter(|rule| rule.is_about(resource)).collect();
            let permitted =
                actions(|action| about.iter().any(|rule| rule.allows(action) && rule.admits(&role)));
            let permitted = if permitted.is_empty() {
                "-".to_owned()
            } else {
                permitted
            };
            rows.push(vec![
                role.clone(),
                resource.name.clone(),
                resource.class.clone(),
                permitted,
            ]);
        }
    }
    let headers = ["ROLE NAME", "RESOURCE NAME", "RESOURCE TYPE", "PERMITTED ACTIONS"];
    output::table(&headers, &rows);
}

/// `permissions list --verbose`: a tree of permissions, the types they are about, and the resources.
pub(super) async fn matches(context: &Context, filter: &Filter) -> Result<()> {
    let catalog = context
        .registry
        .fresh_catalog(filter.place().project(context))
        .await?;
    let resources = resources(&catalog)?;
    let mut rules = rules(&catalog)?;
    let wanted = |rule: &Rule| {
        let own = resources
            .iter()
            .find(|resource| resource.kind == ObjectKind::Permission && resource.name == rule.spec.name);
        own.is_some_and(|own| filter.wants(&own.json))
    };
    rules.retain(wanted);
    output::line(format_args!("Permissions:\n\npermissions"));
    for (index, rule) in rules.iter().enumerate() {
        let is_last = index + 1 == rules.len();
        let mut roles = rule.roles().to_vec();
        roles.sort();
        roles.dedup();
        let roles = if roles.is_empty() {
            String::new()
        } else {
            format!(" {}", python_list(&roles))
        };
        output::line(format_args!("{} {}{roles}", branch(is_last), rule.spec.name));
        let stem = if is_last { "    " } else { "│   " };
        for (index, wanted) in rule.types.iter().enumerate() {
            let branch = branch(index + 1 == rule.types.len());
            let found = resources.iter().filter(|resource| {
                is_a(resource.kind, *wanted) && rule.is_about(resource) && filter.wants(&resource.json)
            });
            let names: Vec<String> = found.map(|resource| resource.name.clone()).collect();
            let names = if names.is_empty() {
                "none".to_owned()
            } else {
                python_list(&names)
            };
            output::line(format_args!(
                "{stem}{branch} {}: {names}",
                camel(wanted.as_str_name())
            ));
        }
    }
    Ok(())
}

fn branch(is_last: bool) -> &'static str {
    if is_last { "└──" } else { "├──" }
}

fn python_list(names: &[String]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("'{name}'")).collect();
    format!("[{}]", quoted.join(", "))
}
