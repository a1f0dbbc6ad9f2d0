#![expect(clippy::unwrap_used, reason = "tests")]

use std::path::Path;

use super::*;

fn sources(yaml: &str, dir: &Path) -> Sources {
    std::fs::write(dir.join("feature_store.yaml"), yaml).unwrap();
    Sources {
        chdir: Some(dir.to_path_buf()),
        ..Sources::default()
    }
}

fn load(yaml: &str) -> Result<Report, Problems> {
    let dir = tempfile::tempdir().unwrap();
    Report::load(&sources(yaml, dir.path()))
}

/// The problems without the directory.
fn problems(yaml: &str) -> Vec<String> {
    let problems = match load(yaml) {
        Ok(report) => report.warnings,
        Err(problems) => problems,
    };
    let shorten = |text: String| {
        text.split_once("feature_store.yaml")
            .map_or(text.clone(), |(_, rest)| rest.trim_start_matches(':').to_owned())
    };
    problems
        .0
        .iter()
        .map(|problem| shorten(problem.to_string()))
        .collect()
}

/// The online store's type and path.
fn online_store(config: &Config) -> (&'static str, Option<String>) {
    match &config.online_store {
        OnlineStoreConfig::Store { kind, section } => (kind.name, section.text("path").map(str::to_owned)),
        OnlineStoreConfig::Disabled => ("null", None),
    }
}

const SMALLEST: &str = "project: p\nregistry: data/registry.db\n";

#[test]
fn the_smallest_file_gets_feasts_defaults() {
    let dir = tempfile::tempdir().unwrap();
    let report = Report::load(&sources(SMALLEST, dir.path())).unwrap();
    let config = report.config;
    assert!(report.warnings.0.is_empty(), "{}", report.warnings);
    assert_eq!(config.project, "p");
    assert_eq!(config.provider, "local");
    assert_eq!(
        config.registry.backend,
        RegistryBackend::File {
            path: dir.path().join("data/registry.db")
        }
    );
    assert_eq!(config.registry.cache_ttl, Some(Duration::from_secs(600)));
    assert_eq!(
        online_store(&config),
        ("sqlite", Some("data/online.db".to_owned()))
    );
    assert_eq!(config.offline_store, OfflineStoreConfig::Files);
    assert_eq!(config.entity_key_version, entity_key::Version::V3);
    assert_eq!(config.thali.memory_limit, 1 << 30);
}

#[test]
fn what_feasts_templates_write_is_accepted() {
    for yaml in [
        "project: p\nprovider: local\nregistry: data/registry.db\nonline_store:\n    type: sqlite\n    path: data/online_store.db\noffline_store:\n    type: file\nentity_key_serialization_version: 3\nauth:\n    type: no_auth\n",
        "project: p\nregistry:\n  registry_type: sql\n  path: sqlite:///r.db\n  cache_ttl_seconds: 60\n  sqlalchemy_config_kwargs: {echo: false, pool_pre_ping: true}\nonline_store: null\noffline_store: duckdb\n",
        "project: p\nregistry: {path: r.db, cache_mode: thread}\nonline_store: none\noffline_store: {type: dask}\nbatch_engine: local\nfeature_server: {enabled: yes, metrics: {enabled: on, feature_count_bins: [1, 2]}, feature_logging: {enabled: off}}\nopenlineage: {enabled: false}\nmaterialization: {online_write_batch_size: 100}\n",
    ] {
        let report = load(yaml).unwrap();
        assert!(report.warnings.0.is_empty(), "{}", report.warnings);
    }
}

#[test]
fn everything_wrong_is_said_at_once_with_its_line() {
    let yaml = "project: _p\nregistry:\n  registry_type: remot\n  path: x\nonlin_store: sqlite\nonline_store:\n  type: sqlite\n  pth: a.db\n  vector_enabled: maybe\noffline_store: snowflake.offline\nauth:\n  type: oidc\nthali:\n  memory_limt: 1GiB\n  ttl_mode: pyton\n  schedules: {v: every fortnight}\n";
    assert_eq!(
        problems(yaml),
        [
            "1: `project`: `_p` is no name for a project (letters, digits, underscores and hyphens, not beginning with an underscore or hyphen)",
            "3: `registry.registry_type`: there is no registry type `remot` (did you mean `remote`?)",
            "5: warning: `onlin_store`: unknown key, ignored (did you mean `online_store`?)",
            "8: `online_store.pth`: unknown key (did you mean `path`?)",
            "9: `online_store.vector_enabled`: `true` or `false` is wanted here, not `maybe`",
            "10: `offline_store`: offline store type `snowflake.offline` is not supported by thali yet (supported: dask, file, duckdb, postgres, hybrid, remote)",
            "12: `auth.type`: auth type `oidc` is not supported by thali yet (supported: no_auth)",
            "14: `thali.memory_limt`: unknown key (did you mean `memory_limit`?)",
            "15: `thali.ttl_mode`: `pyton` is none of python, status, null (did you mean `python`?)",
            "16: `thali.schedules.v`: `fortnight` is no interval of at least a second, such as `10m`",
        ]
    );
}

#[test]
fn stores_thali_lacks_are_named() {
    for (yaml, expected) in [
        (
            "online_store: cassandra\n",
            "online store type `cassandra` is not supported by thali yet",
        ),
        (
            "online_store: {type: my.module.MyOnlineStore}\n",
            "online store `my.module.MyOnlineStore` is a Python class, which thali cannot load",
        ),
        (
            "online_store: sqlit\n",
            "there is no online store type `sqlit` (did you mean `sqlite`?)",
        ),
        (
            "batch_engine: spark.engine\n",
            "warning: `batch_engine`: batch engine `spark.engine` is not used",
        ),
        (
            "provider: gcpx\n",
            "provider `gcpx` is not supported (did you mean `gcp`?)",
        ),
        (
            "entity_key_serialization_version: 4\n",
            "4 is not supported (2 or 3)",
        ),
        ("coerce_tz_aware: perhaps\n", "`true` or `false` is wanted here"),
        (
            "mlflow: {enabled: true}\n",
            "runs are not logged to MLflow by thali",
        ),
    ] {
        let found = problems(&format!("{SMALLEST}{yaml}"));
        assert_eq!(found.len(), 1, "{yaml}: {found:?}");
        assert!(found[0].contains(expected), "{found:?}");
    }
    assert_eq!(problems("").len(), 2, "project and registry are both missed");
    assert!(problems("project: [")[0].contains("not valid YAML"));
    assert!(problems("- a\n")[0].contains("a mapping is wanted here"));
}

#[test]
fn the_distributed_engine_says_what_it_lacks() {
    let found = problems(&format!("{SMALLEST}batch_engine: {{type: ballista}}\n"));
    assert_eq!(found.len(), 1, "{found:?}");
    let expected = if cfg!(feature = "ballista") {
        "batch_engine.scheduler"
    } else {
        "this thali was built without the distributed engine `ballista`"
    };
    assert!(found[0].contains(expected), "{found:?}");
}

#[test]
fn variables_flags_and_environment_override_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let mut sources = sources(
        "project: ${NAME}\nregistry: $DIR/r.db # ${UNKNOWN}\nthali: {memory_limit: 1GB, python: {workers: 4}}\n",
        dir.path(),
    );
    for (name, value) in [
        ("NAME", "p"),
        ("DIR", "/d"),
        ("THALI_MEMORY_LIMIT", "2GB"),
        ("THALI_PYTHON_ENABLED", "off"),
        ("THALI_TTL_MODE", "null"),
        ("THALI_MEMORY_LIMITS", "x"),
    ] {
        sources.env.insert(name.to_owned(), value.to_owned());
    }
    sources.flags = vec![
        ("thali.memory_limit".into(), "3GB".into()),
        ("online_store.path".into(), "/x.db".into()),
        ("entity_key_serialization_version".into(), "3".into()),
    ];
    let report = Report::load(&sources).unwrap();
    let config = &report.config;
    assert_eq!(config.project, "p");
    assert_eq!(
        config.registry.backend,
        RegistryBackend::File {
            path: "/d/r.db".into()
        }
    );
    assert_eq!(config.thali.memory_limit, 3_000_000_000);
    assert_eq!(config.thali.ttl_mode, TtlMode::Null);
    assert_eq!(config.thali.python.workers, 4);
    assert!(!config.thali.python.enabled);
    assert_eq!(online_store(config), ("sqlite", Some("/x.db".to_owned())));
    let origin = |key: &str| {
        report
            .settings
            .iter()
            .find(|setting| setting.key == key)
            .unwrap()
            .origin
            .to_string()
    };
    assert_eq!(origin("thali.memory_limit"), "flag --set");
    assert_eq!(origin("thali.python.enabled"), "environment THALI_PYTHON_ENABLED");
    assert_eq!(origin("online_store.type"), "default");
    assert!(origin("thali.python.workers").ends_with("feature_store.yaml:3"));
    assert_eq!(report.warnings.0.len(), 1);
    assert_eq!(
        report.warnings.0[0].to_string(),
        "environment: warning: `THALI_MEMORY_LIMITS`: unknown variable, ignored (did you mean `THALI_MEMORY_LIMIT`?)"
    );
    sources.env.insert("THALI_PYTHON_WORKERS".into(), "many".into());
    let problems = Report::load(&sources).unwrap_err();
    assert!(
        problems
            .to_string()
            .contains("environment THALI_PYTHON_WORKERS: `thali.python.workers`"),
        "{problems}"
    );
}

#[test]
fn the_file_is_found_where_feast_finds_it() {
    use base64::Engine as _;
    let dir = tempfile::tempdir().unwrap();
    let other = dir.path().join("other.yaml");
    std::fs::write(&other, "project: other\nregistry: r.db\n").unwrap();
    let mut sources = sources(SMALLEST, dir.path());
    let project = |sources: &Sources| Report::load(sources).unwrap().config.project;
    assert_eq!(project(&sources), "p");
    sources
        .env
        .insert("FEAST_FS_YAML_FILE_PATH".into(), other.display().to_string());
    assert_eq!(project(&sources), "other");
    sources.file = Some(dir.path().join("feature_store.yaml"));
    assert_eq!(project(&sources), "p");
    let encoded = base64::engine::general_purpose::STANDARD.encode("project: b64\nregistry: r.db\n");
    sources.env.insert("FEATURE_STORE_YAML_BASE64".into(), encoded);
    let config = Report::load(&sources).unwrap().config;
    assert_eq!(config.project, "b64");
    assert_eq!(
        config.registry.backend,
        RegistryBackend::File {
            path: dir.path().join("r.db")
        }
    );
    sources.env.clear();
    sources.file = Some(dir.path().join("none.yaml"));
    assert!(
        Report::load(&sources)
            .unwrap_err()
            .to_string()
            .contains("there is no such file")
    );
    sources.file = None;
    sources
        .env
        .insert("FEATURE_REPO_DIR_ENV_VAR".into(), "/nowhere".into());
    assert_eq!(project(&sources), "p", "the flag wins over the variable");
    sources.chdir = None;
    assert!(Report::load(&sources).is_err());
}

#[test]
fn no_key_of_a_store_is_ignored_in_silence() {
    use crate::{config::schema::Effect, online::store::kind::KINDS};
    // What these ask for is done whether or not they ask.
    let done = [("mysql", "batch_write"), ("dynamodb", "session_based_auth")];
    for kind in KINDS {
        for key in kind.schema.keys {
            let silent = matches!(key.effect, Effect::Accepted) && !done.contains(&(kind.name, key.name));
            assert!(!silent, "`{}` of {}", key.name, kind.name);
        }
    }
    let yaml = "project: p\nregistry: r.db\nonline_store:\n  type: dynamodb\n  region: us-east-1\n  retry_mode: standard\n  warmup_connections: true\n";
    let warnings = |yaml: &str| load(yaml).unwrap().warnings.to_string();
    assert!(
        warnings(yaml)
            .contains("`online_store.warmup_connections`: connections are opened when they are needed"),
        "{}",
        warnings(yaml)
    );
    assert!(!warnings(yaml).contains("retry_mode"));
    let yaml = yaml.replace("standard", "adaptive").replace("true", "false");
    let said = warnings(&yaml);
    assert!(
        said.contains("`online_store.retry_mode`: what is throttled"),
        "{said}"
    );
    assert!(!said.contains("warmup_connections"));
}
