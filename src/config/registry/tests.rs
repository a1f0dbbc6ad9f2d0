#![expect(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::config::{Report, Sources, problem::Problems};

fn load(registry: &str) -> Result<Report, Problems> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(
        folder.path().join("feature_store.yaml"),
        format!("project: p\nregistry:\n{registry}"),
    )
    .unwrap();
    let sources = Sources {
        chdir: Some(folder.path().to_owned()),
        env: BTreeMap::from([("SSL_CERT_FILE".to_owned(), "/etc/ca.pem".to_owned())]),
        ..Sources::default()
    };
    Report::load(&sources)
}

fn backend(registry: &str) -> RegistryBackend {
    let report = load(registry).unwrap();
    assert!(report.warnings.0.is_empty(), "{}", report.warnings);
    report.config.registry.backend
}

/// The problems without the file, warnings too.
fn problems(registry: &str) -> Vec<String> {
    let problems = load(registry).map_or_else(|problems| problems, |report| report.warnings);
    let shorten = |text: String| {
        let place = text.split_once("feature_store.yaml:");
        place.map_or(text.clone(), |(_, rest)| rest.to_owned())
    };
    problems
        .0
        .iter()
        .map(|problem| shorten(problem.to_string()))
        .collect()
}

#[test]
fn a_sql_registry_has_all_of_feasts_keys() {
    let yaml = "  registry_type: sql
  path: postgresql+psycopg://u:p@h/d?connect_timeout=3
  read_path: postgresql://u:p@replica/d
  schema_mode: verify
  cache_mode: thread
  cache_ttl_seconds: 0
  purge_feast_metadata: true
  thread_pool_executor_worker_count: 4
  sqlalchemy_config_kwargs:
    pool_size: 3
    max_overflow: -1
    pool_timeout: 2.5
    pool_recycle: 1800
    pool_pre_ping: false
    echo: debug
    connect_args: {sslmode: require, prepare_threshold: null}
";
    let report = load(yaml).unwrap();
    assert!(report.warnings.0.is_empty(), "{}", report.warnings);
    let config = report.config.registry;
    assert_eq!((config.cache_ttl, config.cache_mode), (None, CacheMode::Thread));
    let RegistryBackend::Sql(sql) = config.backend else {
        unreachable!("a SQL registry")
    };
    assert_eq!(sql.url.to_string(), "postgresql://u:***@h/d");
    assert_eq!(sql.url.connect_timeout(), Some(Duration::from_secs(3)));
    assert_eq!(sql.read_url.unwrap().to_string(), "postgresql://u:***@replica/d");
    assert_eq!(sql.schema_mode, SchemaMode::Verify);
    assert!(sql.purge_metadata);
    assert_eq!(
        sql.options,
        DatabaseOptions {
            pool_size: 3,
            max_overflow: None,
            pool_timeout: Duration::from_millis(2500),
            pool_recycle: Some(Duration::from_secs(1800)),
            pool_pre_ping: false,
            echo: true,
        }
    );
    let RegistryBackend::Sql(sql) = backend("  {registry_type: sql, path: 'sqlite:///r.db'}\n") else {
        unreachable!("a SQL registry")
    };
    assert_eq!(sql.options, DatabaseOptions::default());
    assert_eq!(sql.schema_mode, SchemaMode::Auto);
}

#[test]
fn nested_arguments_are_pymysqls_way_to_say_the_same() {
    let nested = "  registry_type: sql\n  path: mysql+pymysql://u@h/d\n  sqlalchemy_config_kwargs:\n    connect_args: {ssl: {ca: /ca.pem, check_hostname: true}}\n";
    let flat = "  registry_type: sql\n  path: mysql+pymysql://u@h/d?ssl_ca=/ca.pem&ssl_check_hostname=true\n";
    assert_eq!(backend(nested), backend(flat));
}

#[test]
fn object_stores_are_told_by_the_path() {
    for (registry, store) in [
        ("  path: s3://bucket/feast/registry.db\n", ObjectStoreKind::S3),
        (
            "  {path: 's3://b/r.db', registry_store_type: S3RegistryStore}\n",
            ObjectStoreKind::S3,
        ),
        ("  gs://bucket/registry.db\n", ObjectStoreKind::Gcs),
        (
            "  {path: 'https://me.blob.core.windows.net/c/r.db', registry_store_type: AzureRegistryStore}\n",
            ObjectStoreKind::Azure,
        ),
        ("  path: az://container/r.db\n", ObjectStoreKind::Azure),
    ] {
        let RegistryBackend::Object(object) = backend(registry) else {
            unreachable!("an object store")
        };
        assert_eq!(object.store, store, "{registry}");
    }
    let yaml = "  path: s3://bucket/r.db\n  s3_additional_kwargs: {ServerSideEncryption: aws:kms}\n";
    let RegistryBackend::Object(object) = backend(yaml) else {
        unreachable!("an object store")
    };
    assert_eq!(object.url, "s3://bucket/r.db");
    assert_eq!(
        object.options,
        BTreeMap::from([("ServerSideEncryption".to_owned(), "aws:kms".to_owned())])
    );
}

#[test]
fn a_remote_registry_is_reached_in_the_open_or_with_tls() {
    let remote = |yaml: &str| match backend(&format!("  registry_type: remote\n{yaml}")) {
        RegistryBackend::Remote(remote) => remote,
        other => unreachable!("{other:?}"),
    };
    let plain = remote("  path: registry:6570\n");
    assert_eq!((plain.address.as_str(), plain.tls), ("registry:6570", None));
    assert_eq!(remote("  path: '[::1]:6570'\n").address, "[::1]:6570");
    let tls = remote("  path: dns:///r:6570\n  is_tls: true\n  authority: registry.example.org\n");
    assert_eq!(tls.address, "r:6570");
    assert_eq!(
        tls.tls.unwrap(),
        RemoteTls {
            ca: Some("/etc/ca.pem".into()),
            client: None,
            authority: Some("registry.example.org".to_owned()),
        }
    );
    let mutual = remote("  path: r:6570\n  cert: /ca.pem\n  client_cert: /c.pem\n  client_key: /k.pem\n");
    assert_eq!(
        mutual.tls.unwrap(),
        RemoteTls {
            ca: Some("/ca.pem".into()),
            client: Some(("/c.pem".into(), "/k.pem".into())),
            authority: None,
        }
    );
}

#[test]
fn what_is_wrong_is_said_with_its_line_and_without_passwords() {
    for (registry, expected) in [
        (
            "  registry_type: snowflake.registry\n",
            "3: `registry.registry_type`: registry type `snowflake.registry` is not supported by thali (supported: file, sql, remote)",
        ),
        (
            "  registry_type: sql\n  path: mssql+pyodbc://u:secret@h/d\n",
            "4: `registry.path`: databases of the kind `mssql+pyodbc` are not supported",
        ),
        (
            "  registry_type: sql\n  path: registry.db\n",
            "4: `registry.path`: this is not a database URL",
        ),
        (
            "  registry_type: sql\n  path: sqlite:///r.db\n  read_path: mysql://u:secret@h/d\n",
            "5: `registry.read_path`: the database to read from is of another kind",
        ),
        (
            "  registry_type: sql\n  path: sqlite:///r.db\n  schema_mode: verfy\n",
            "5: `registry.schema_mode`: `verfy` is none of auto, verify, skip (did you mean `verify`?)",
        ),
        (
            "  registry_type: sql\n  path: postgresql://u:secret@h/d?sslmode=no\n",
            "4: `registry.path`: `sslmode` cannot be `no`",
        ),
        (
            "  registry_type: sql\n  path: postgresql://u@h/d?target_session_attrs=any\n",
            "4: warning: `registry.path`: option `target_session_attrs` of the database URL means nothing to thali",
        ),
        (
            "  registry_type: sql\n  path: sqlite:///r.db\n  sqlalchemy_config_kwargs:\n    pool_siz: 1\n",
            "6: warning: `registry.sqlalchemy_config_kwargs.pool_siz`: unknown key, ignored (did you mean `pool_size`?)",
        ),
        (
            "  registry_type: sql\n  path: sqlite:///r.db\n  sqlalchemy_config_kwargs:\n    isolation_level: SERIALIZABLE\n",
            "6: warning: `registry.sqlalchemy_config_kwargs.isolation_level`: thali chooses",
        ),
        (
            "  registry_type: sql\n  path: sqlite:///r.db\n  sqlalchemy_config_kwargs:\n    connect_args: {timeout: soon}\n",
            "6: `registry.sqlalchemy_config_kwargs.connect_args`: `timeout` wants a number of seconds",
        ),
        (
            "  path: postgresql://u:secret@h/d\n",
            "3: `registry.path`: `postgresql` is a database (add `registry_type: sql`)",
        ),
        (
            "  path: hdfs://namenode/r.db\n",
            "3: `registry.path`: registry files on `hdfs://` are not supported by thali",
        ),
        (
            "  path: s3://bucket\n",
            "3: `registry.path`: the path has to name a bucket and an object in it",
        ),
        (
            "  path: r.db\n  registry_store_type: my.Store\n",
            "4: `registry.registry_store_type`: registry store `my.Store` is not supported",
        ),
        (
            "  path: r.db\n  registry_store_type: S3RegistryStore\n",
            "4: `registry.registry_store_type`: the path is none of a `S3RegistryStore`",
        ),
        (
            "  registry_type: remote\n  path: http://h:6570\n",
            "4: `registry.path`: `host:port` is wanted here, not a URL",
        ),
        (
            "  registry_type: remote\n  path: h\n",
            "4: `registry.path`: `host:port` is wanted here, not `h`",
        ),
        (
            "  registry_type: remote\n  path: h:1\n  client_cert: /c\n",
            "5: `registry.client_cert`: `client_key` is missing (both or neither)",
        ),
        (
            "  registry_type: remote\n  path: h:1\n  authority: x\n",
            "5: warning: `registry.authority`: counts only with TLS",
        ),
        ("  {path: ''}\n", "3: `registry.path`: missing"),
    ] {
        let found = problems(registry);
        assert_eq!(found.len(), 1, "{registry}: {found:?}");
        assert!(found[0].starts_with(expected), "{found:?}");
        assert!(!found[0].contains("secret"), "{found:?}");
    }
}

#[test]
fn processes_meet_where_the_registry_is() {
    let repo = Path::new("/repo");
    for (registry, expected) in [
        ("  /data/registry.db\n", "sqlite:////data/thali.db"),
        (
            "  {registry_type: sql, path: 'sqlite:////data/r.db'}\n",
            "sqlite:////data/thali.db",
        ),
        ("  {registry_type: sql, path: 'mysql://u@h/d'}\n", "mysql://u@h/d"),
        ("  s3://bucket/r.db\n", "sqlite:////repo/data/thali.db"),
        (
            "  {registry_type: remote, path: 'h:6570'}\n",
            "sqlite:////repo/data/thali.db",
        ),
    ] {
        assert_eq!(backend(registry).meeting_place(repo).to_string(), expected);
    }
}
