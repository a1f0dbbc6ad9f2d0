//! From the tree to [`Config`]: overrides are laid over the file, sections whose keys depend on a
//! `type` are picked, settings become types. Everything that is wrong is found before it gives up.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::{
    BatchEngineConfig, Config, HistoryConfig, MaterializationConfig, OfflineStoreConfig, OnlineStoreConfig,
    PythonConfig, Report, ThaliConfig, TtlMode,
    check::{Origin, Settings, Walk, join},
    locate::{Found, Sources},
    problem::{Problem, Problems, closest},
    quantity::{self, seconds},
    registry::registry,
    schema::{self, Kind, Schema, Store},
    section::Section,
    serving,
    yaml::{self, Entry, Node, Value},
};
use crate::{cloud::Environment, model::entity_key, online::store::kind::KINDS};

/// Reads everything; answers all problems when one of them is an error.
pub(super) fn load(sources: &Sources) -> Result<Report, Problems> {
    let found = sources.find()?;
    let mut root =
        yaml::parse(&found.text).map_err(|problem| Problems(vec![problem.in_file(&found.name)]))?;
    let mut walk = Walk {
        file: Arc::clone(&found.name),
        overrides: BTreeMap::new(),
        settings: Settings::default(),
        problems: Problems::default(),
    };
    match root.value {
        Value::Map(_) => {}
        Value::Null => root.value = Value::Map(Vec::new()),
        _ => {
            let problem = Problem::error(format!("a mapping is wanted here, not {}", root.what()));
            return Err(Problems(vec![problem.at(root.line).in_file(&found.name)]));
        }
    }
    override_from_environment(&mut root, &mut walk, &sources.env);
    for (key, value) in &sources.flags {
        let node = yaml::parse(value).unwrap_or_else(|_| Node::unplaced(Value::Text(value.clone())));
        put(&mut root, &mut walk, key, Node { line: 0, ..node }, Origin::Flag);
    }
    walk.section("", Some(&root), &schema::TOP);
    let config = build(&root, &mut walk, &found, &sources.env);
    walk.problems.sort();
    match config {
        Some(config) if !walk.problems.has_errors() => Ok(Report {
            config,
            warnings: walk.problems,
            settings: walk.settings.0,
            document: root,
        }),
        _ => Err(walk.problems),
    }
}

/// Lays `THALI_<KEY>` over the `thali:` section.
fn override_from_environment(root: &mut Node, walk: &mut Walk, env: &BTreeMap<String, String>) {
    let mut leaves = Vec::new();
    collect_leaves("thali", &schema::THALI, &mut leaves);
    let variables: Vec<(String, String)> = leaves
        .into_iter()
        .map(|path| (path.replace('.', "_").to_uppercase(), path))
        .collect();
    for (name, value) in env.iter().filter(|(name, _)| name.starts_with("THALI_")) {
        match variables.iter().find(|(variable, _)| variable == name) {
            Some((_, path)) => {
                let node = Node::unplaced(Value::Text(value.clone()));
                put(root, walk, path, node, Origin::Environment(name.clone()));
            }
            None => {
                if let Some(near) = closest(name, variables.iter().map(|(variable, _)| variable.as_str())) {
                    let problem = Problem::warning("unknown variable, ignored").key(name.clone());
                    walk.problems.push(
                        problem
                            .in_file(&Arc::from("environment"))
                            .hint(format!("did you mean `{near}`?")),
                    );
                }
            }
        }
    }
}

fn collect_leaves(path: &str, schema: &Schema, leaves: &mut Vec<String>) {
    for key in schema.keys {
        match key.kind {
            Kind::Section(inner) => collect_leaves(&join(path, key.name), inner, leaves),
            Kind::Map => {}
            _ => leaves.push(join(path, key.name)),
        }
    }
}

/// Puts a value at a dotted path, making mappings on the way; a section written as one word becomes one.
fn put(root: &mut Node, walk: &mut Walk, path: &str, value: Node, origin: Origin) {
    walk.overrides.insert(path.to_owned(), origin);
    let mut node = root;
    let mut names = path.split('.').peekable();
    while let Some(name) = names.next() {
        if let Value::Text(word) = &node.value {
            let shorthand = Entry {
                key: "type".to_owned(),
                line: node.line,
                node: node.clone(),
            };
            node.value = if word.is_empty() {
                Value::Map(Vec::new())
            } else {
                Value::Map(vec![shorthand])
            };
        }
        if !matches!(node.value, Value::Map(_)) {
            node.value = Value::Map(Vec::new());
        }
        let Value::Map(entries) = &mut node.value else {
            return;
        };
        let index = match entries.iter().position(|entry| entry.key == name) {
            Some(index) => index,
            None => {
                entries.push(Entry {
                    key: name.to_owned(),
                    line: 0,
                    node: Node::unplaced(Value::Null),
                });
                entries.len() - 1
            }
        };
        let Some(entry) = entries.get_mut(index) else {
            return;
        };
        if names.peek().is_none() {
            entry.node = value;
            return;
        }
        node = &mut entry.node;
    }
}

fn build(root: &Node, walk: &mut Walk, found: &Found, env: &BTreeMap<String, String>) -> Option<Config> {
    let project = project(root, walk);
    let provider = provider(root, walk);
    let registry = registry(root, walk, found, env);
    let online_store = online_store(root, walk);
    let offline_store = match store(root, walk, &schema::OFFLINE) {
        Some("postgres") => OfflineStoreConfig::Postgres(Section::new(&walk.settings, "offline_store")),
        Some("hybrid") => OfflineStoreConfig::Hybrid(Section::new(&walk.settings, "offline_store")),
        Some("remote") => OfflineStoreConfig::Remote(
            Section::new(&walk.settings, "offline_store")
                .with_token(walk.settings.text("thali.offline_token")),
        ),
        _ => OfflineStoreConfig::Files,
    };
    let batch_engine = batch_engine(root, walk);
    store(root, walk, &schema::AUTH);
    for (name, schema) in [
        ("feature_server", &schema::FEATURE_SERVER),
        ("openlineage", &schema::OPENLINEAGE),
        ("mlflow", &schema::MLFLOW),
    ] {
        if let Some(node) = root.get(name).filter(|node| node.value != Value::Null) {
            walk.section(name, Some(node), schema);
        }
    }
    let feature_server = serving::feature_server(walk);
    let entity_key_version = entity_key_version(walk);
    let thali = thali(walk);
    let mut registry = registry?;
    if let super::RegistryBackend::Remote(remote) = &mut registry.backend {
        remote.token = walk.settings.text("thali.registry_token").map(str::to_owned);
    }
    Some(Config {
        project: project?,
        project_description: walk
            .settings
            .text("project_description")
            .unwrap_or_default()
            .to_owned(),
        provider,
        repo_path: found.repo_path.clone(),
        file: found.file.clone(),
        registry,
        online_store: online_store?,
        offline_store,
        batch_engine: batch_engine?,
        entity_key_version: entity_key_version?,
        materialization: MaterializationConfig {
            online_write_batch_size: positive(walk, "materialization.online_write_batch_size"),
        },
        feature_server,
        thali: thali?,
        environment: Environment::of(env),
    })
}

fn project(root: &Node, walk: &mut Walk) -> Option<String> {
    let Some(name) = walk.settings.text("project").map(str::to_owned) else {
        if root.get("project").is_none_or(|node| node.value == Value::Null) {
            walk.report(
                Problem::error("missing")
                    .key("project")
                    .hint("every feature store names its project"),
            );
        }
        return None;
    };
    if is_project_name(&name) {
        return Some(name);
    }
    let line = walk.settings.line("project");
    walk.report(
        Problem::error(format!("`{name}` is no name for a project"))
            .at(line)
            .key("project")
            .hint("letters, digits, underscores and hyphens, not beginning with an underscore or hyphen"),
    );
    None
}

/// Feast's rule (`feast/repo_operations.py:is_valid_name`).
pub fn is_project_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(['_', '-'])
        && name.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '-')
}

fn provider(root: &Node, walk: &mut Walk) -> String {
    const KNOWN: [&str; 4] = ["local", "gcp", "aws", "azure"];
    let provider = walk.settings.text("provider").unwrap_or("local").to_owned();
    if !KNOWN.contains(&provider.as_str()) && root.get("provider").is_some() {
        let line = walk.settings.line("provider");
        let problem = Problem::error(format!("provider `{provider}` is not supported"))
            .at(line)
            .key("provider");
        walk.report(problem.suggest(&provider, KNOWN));
    }
    provider
}

fn online_store(root: &Node, walk: &mut Walk) -> Option<OnlineStoreConfig> {
    let section = root.get("online_store");
    let disabled = match section {
        Some(Node {
            value: Value::Null, ..
        }) => true,
        Some(Node {
            value: Value::Text(word),
            ..
        }) => matches!(word.as_str(), "null" | "none"),
        _ => false,
    };
    if disabled {
        let line = section.map_or(0, |node| node.line);
        walk.set_text("online_store", "null", line);
        return Some(OnlineStoreConfig::Disabled);
    }
    let name = store(root, walk, &schema::ONLINE)?;
    let kind = KINDS.iter().copied().find(|kind| kind.name == name)?;
    Some(OnlineStoreConfig::Store {
        kind,
        section: Section::new(&walk.settings, "online_store")
            .with_token(walk.settings.text("thali.online_token")),
    })
}

fn batch_engine(root: &Node, walk: &mut Walk) -> Option<BatchEngineConfig> {
    if store(root, walk, &schema::ENGINE) != Some("ballista") {
        return Some(BatchEngineConfig::Local);
    }
    distributed(walk)
}

#[cfg(feature = "ballista")]
fn distributed(walk: &mut Walk) -> Option<BatchEngineConfig> {
    let tasks = positive(walk, "batch_engine.tasks");
    let Some(scheduler) = walk.settings.text("batch_engine.scheduler").map(str::to_owned) else {
        walk.report(
            Problem::error("missing")
                .at(walk.settings.line("batch_engine.type"))
                .key("batch_engine.scheduler")
                .hint("the `host:port` of `thali cluster scheduler`"),
        );
        return None;
    };
    Some(BatchEngineConfig::Ballista {
        scheduler,
        tasks: tasks?,
    })
}

#[cfg(not(feature = "ballista"))]
fn distributed(walk: &mut Walk) -> Option<BatchEngineConfig> {
    walk.report(
        Problem::error("this thali was built without the distributed engine `ballista`")
            .at(walk.settings.line("batch_engine.type"))
            .key("batch_engine.type")
            .hint("build it with `cargo build --features ballista`, or say `batch_engine: local`"),
    );
    None
}

/// Checks a section that is a type, or a mapping with a `type`; answers the type if thali has it.
fn store(root: &Node, walk: &mut Walk, store: &'static Store) -> Option<&'static str> {
    let node = root.get(store.section).filter(|node| node.value != Value::Null);
    let (kind, line) = match node {
        None => (store.default.to_owned(), 0),
        Some(node) => match &node.value {
            Value::Map(_) => (
                node.get("type")
                    .and_then(Node::scalar)
                    .unwrap_or_else(|| store.default.to_owned()),
                node.entry("type").map_or(node.line, |entry| entry.line),
            ),
            Value::Text(word) => (word.clone(), node.line),
            _ => {
                let problem =
                    Problem::error(format!("a type or a mapping is wanted here, not {}", node.what()));
                walk.report(problem.at(node.line).key(store.section));
                return None;
            }
        },
    };
    let place = if node.is_some_and(|node| node.get("type").is_some()) {
        format!("{}.type", store.section)
    } else {
        store.section.to_owned()
    };
    let Some((name, schema)) = (store.supported)().into_iter().find(|(name, _)| *name == kind) else {
        walk.report(unsupported(store, &kind).at(line).key(place));
        return None;
    };
    match node {
        Some(node) if matches!(node.value, Value::Map(_)) => walk.section(store.section, Some(node), schema),
        _ => {
            walk.set_text(&join(store.section, "type"), &kind, line);
            let rest = schema.keys.iter().filter(|key| key.name != "type");
            walk.defaults(store.section, rest);
        }
    }
    Some(name)
}

pub(super) fn unsupported(store: &Store, kind: &str) -> Problem {
    let label = store.label;
    let names: Vec<&str> = (store.supported)().into_iter().map(|(name, _)| name).collect();
    let supported = format!("supported: {}", names.join(", "));
    if let Some(instead) = store.replaced_by
        && (store.other.contains(&kind) || kind.contains('.'))
    {
        return Problem::warning(format!("{label} `{kind}` is not used: {instead}"));
    }
    if store.other.contains(&kind) {
        return Problem::error(format!("{label} type `{kind}` is not supported by thali yet"))
            .hint(supported);
    }
    if kind.contains('.') {
        return Problem::error(format!(
            "{label} `{kind}` is a Python class, which thali cannot load"
        ))
        .hint(supported);
    }
    let all = names.iter().chain(store.other).copied();
    match closest(kind, all) {
        Some(near) => Problem::error(format!("there is no {label} type `{kind}`"))
            .hint(format!("did you mean `{near}`?")),
        None => Problem::error(format!("there is no {label} type `{kind}`")).hint(supported),
    }
}

fn entity_key_version(walk: &mut Walk) -> Option<entity_key::Version> {
    const KEY: &str = "entity_key_serialization_version";
    let line = walk.settings.line(KEY);
    match walk.settings.int(KEY)? {
        3 => Some(entity_key::Version::V3),
        2 => {
            let problem = Problem::warning("version 2 is only for stores that were written with it")
                .at(line)
                .key(KEY);
            walk.report(problem.hint("3 is what new stores use"));
            Some(entity_key::Version::V2)
        }
        other => {
            walk.report(
                Problem::error(format!("{other} is not supported"))
                    .at(line)
                    .key(KEY)
                    .hint("2 or 3"),
            );
            None
        }
    }
}

/// How far incremental runs look back.
fn lookback(walk: &mut Walk) -> Option<Duration> {
    const KEY: &str = "thali.materialize_lookback";
    let text = walk.settings.text(KEY).unwrap_or("0s").to_owned();
    let found = quantity::duration(&text);
    if found.is_none() {
        let line = walk.settings.line(KEY);
        let problem = Problem::error(format!("`{text}` is no span of time, such as `2h`"));
        walk.report(problem.at(line).key(KEY));
    }
    found
}

fn thali(walk: &mut Walk) -> Option<ThaliConfig> {
    let settings = &walk.settings;
    let ttl_mode = match settings.text("thali.ttl_mode") {
        Some("status") => TtlMode::Status,
        Some("null") => TtlMode::Null,
        _ => TtlMode::Python,
    };
    let memory_limit = settings.text("thali.memory_limit").and_then(quantity::bytes);
    let unknown_entity = serving::unknown_entity(walk);
    let schedules = settings.map("thali.schedules");
    let materialize_lookback = lookback(walk);
    let settings = &walk.settings;
    let python = PythonConfig {
        enabled: settings.bool("thali.python.enabled").unwrap_or(true),
        command: settings
            .text("thali.python.command")
            .unwrap_or("python3")
            .to_owned(),
        workers: positive(walk, "thali.python.workers").unwrap_or(2),
        time_limit: seconds(walk, "thali.python.time_limit_seconds"),
        memory_limit: walk
            .settings
            .text("thali.python.memory_limit")
            .and_then(quantity::bytes)?,
    };
    let online = serving::online(walk);
    let offline = super::offline::offline(walk);
    let keep = not_negative(walk, "thali.registry_history.keep");
    let line = walk.settings.line("thali.schedules");
    for (view, schedule) in &schedules {
        if let Some(problem) = schedule_problem(schedule) {
            walk.report(
                Problem::error(problem)
                    .at(line)
                    .key(join("thali.schedules", view)),
            );
        }
    }
    Some(ThaliConfig {
        memory_limit: memory_limit?,
        ttl_mode,
        unknown_entity,
        online: online?,
        offline: offline?,
        schedules,
        materialize_lookback: materialize_lookback?,
        python,
        registry_history: HistoryConfig { keep: keep? },
        registry_poll: seconds(walk, "thali.registry_poll_seconds"),
        shutdown_grace: seconds(walk, "thali.shutdown_grace_seconds"),
        shutdown_delay: seconds(walk, "thali.shutdown_delay_seconds"),
        otlp_endpoint: walk.settings.text("thali.otlp_endpoint").map(str::to_owned),
        otlp_sample_ratio: walk
            .settings
            .float("thali.otlp_sample_ratio")
            .unwrap_or(1.0)
            .min(1.0),
    })
}

/// What is wrong with a schedule (`every 10m` or a cron expression), if something is.
pub fn schedule_problem(schedule: &str) -> Option<String> {
    let schedule = schedule.trim();
    if let Some(interval) = schedule.strip_prefix("every ") {
        let span = quantity::duration(interval);
        return span
            .is_none_or(|span| span < Duration::from_secs(1))
            .then(|| format!("`{interval}` is no interval of at least a second, such as `10m`"));
    }
    let pattern = schedule.parse::<croner::Cron>();
    pattern
        .err()
        .map(|error| format!("`{schedule}` is neither `every 10m` nor a cron expression: {error}"))
}

pub(super) fn positive(walk: &mut Walk, key: &str) -> Option<usize> {
    whole(walk, key, 1, "is not positive")
}

fn not_negative(walk: &mut Walk, key: &str) -> Option<usize> {
    whole(walk, key, 0, "is negative")
}

fn whole(walk: &mut Walk, key: &str, least: usize, otherwise: &str) -> Option<usize> {
    let value = walk.settings.int(key)?;
    match usize::try_from(value) {
        Ok(value) if value >= least => Some(value),
        _ => {
            let line = walk.settings.line(key);
            let problem = Problem::error(format!("{value} {otherwise}"));
            walk.report(problem.at(line).key(key));
            None
        }
    }
}
