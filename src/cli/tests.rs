#![expect(clippy::unwrap_used, reason = "tests")]

use clap::CommandFactory as _;

use super::*;

fn parse(arguments: &str) -> Result<Invocation, clap::Error> {
    super::parse(
        Name::Thali,
        std::iter::once("thali").chain(arguments.split_whitespace()),
    )
}

fn parse_feast(arguments: &str) -> Result<Invocation, clap::Error> {
    super::parse(
        Name::Feast,
        std::iter::once("feast").chain(arguments.split_whitespace()),
    )
}

#[test]
fn the_definition_is_consistent() {
    Thali::command().debug_assert();
    Feast::command().debug_assert();
}

#[test]
fn feasts_spelling_is_understood() {
    for arguments in [
        "-c dir serve --role online,registry --registry-port 0 --tls-key k --tls-cert c",
        "materialize 2024-01-01T00:00:00 2024-02-01T00:00:00 -v a -v b",
        "materialize --disable-event-timestamp",
        "-f other.yaml materialize-incremental 2024-02-01 --views a",
        "version",
        "config --set thali.memory_limit=2GiB",
        "--log-level debug jobs -o json",
        "health --url http://127.0.0.1:6566/health",
        "init",
        "init my_repo -t minimal",
        "init my_repo -m",
        "demo there --ui-port 0 --host 0.0.0.0",
        "plan --skip-source-validation",
        "apply",
        "teardown",
        "export -o all.yaml",
        "get-online-features -e driver_id=1001 -e driver_id=1002 -f v:a -f v:b",
        "get-online-features --entities driver_id=1 --feature-service s --full-feature-names",
        "get-historical-features -d [] -f v:a",
        "get-historical-features --entity-file e.parquet --feature-service s -o out.csv",
        "get-historical-features -s 2024-01-01 -e 2024-02-01 -f v:a --format json",
        "entities list --tags a:b",
        "feature-views describe x",
        "on-demand-feature-views list",
        "features list",
        "projects list",
        "delete x",
        "registry-dump",
        "dataset create d -f v:a --entity-file e.parquet --path d.parquet --overwrite",
        "dataset verify d --json",
        "dataset diff a b -k id -k event_timestamp",
        "validate --dataset d --reference r --max-null-rate 0.1 --json",
        "validate --log s -r r --max-psi 0.1",
    ] {
        if let Err(error) = parse(arguments) {
            unreachable!("{arguments}: {error}");
        }
    }
    for arguments in [
        "",
        "serv",
        "serve --tls-key k",
        "serve --ui-port x",
        "materialize 2024-01-01",
        "materialize-incremental tomorrow",
        "config --set x",
        "get-online-features -f v:a",
        "get-online-features -e driver_id -f v:a",
        "get-online-features -e driver_id=1",
        "get-historical-features -d [] -s 2024-01-01 -f v:a",
        "demo --role ui",
        "entities",
        "entities list --tags a",
        "dataset create d -f v:a --path d.parquet",
        "validate --reference r",
        "validate --dataset d --log s -r r",
    ] {
        assert!(parse(arguments).is_err(), "{arguments}");
    }
}

#[test]
fn global_options_stand_before_the_command() {
    let cli = parse("-c here -f there.yaml get-online-features -e a=1 -f v:x --set project=p").unwrap();
    assert_eq!(cli.global.chdir.unwrap(), PathBuf::from("here"));
    assert_eq!(
        cli.global.feature_store_yaml.unwrap(),
        PathBuf::from("there.yaml")
    );
    assert_eq!(cli.global.set, [("project".to_owned(), "p".to_owned())]);
}

#[test]
fn called_feast_it_takes_feasts_flags() {
    for arguments in [
        "-c dir -f file.yaml --log-level INFO serve --metrics -h 0.0.0.0 --workers -1 --worker-connections 2000 \
         --max-requests 5000 --max-requests-jitter 500 --keep-alive-timeout 30 --registry_ttl_sec 300 --key k \
         --cert c -p 6567",
        "serve -h ::1 -p 1 -t grpc --no-access-log -w 4 -r 5 -k k -c c -m",
        "serve_registry --grpc --rest-api --rest-port 6573 --key k --cert c -p 6571",
        "serve_registry --no-grpc -r -h 127.0.0.1",
        "serve_offline -h 0.0.0.0 -p 8816 -k k -c c",
        "ui -h 0.0.0.0 -p 1 -r 5 --root_path /feast -k k -c c --cors-allowed-origins http://a",
        "listen -a localhost:50052 -w 4 -r 5",
        "apply --skip-source-validation --skip-feature-view-validation --no-progress --no-promote",
        "plan --skip-source-validation --skip-feature-view-validation",
        "init",
        "init -m",
        "init my_repo -t postgres --repo-path there",
        "version",
        "configuration",
        "endpoint",
        "registry-dump",
        "registry create-schema",
        "projects current_project",
        "projects delete p -y",
        "entities list --tags a:b,c:d --tags e:f",
        "feature-views enable v",
        "feature-views set-state v created",
        "feature-views list-versions v",
        "permissions list -v --tags a:b",
        "permissions check",
        "permissions list-roles --verbose",
        "features list --output JSON",
        "features describe f",
        "materialize 2024-01-01T00:00:00 2024-02-01T00:00:00 -v a --version v2",
        "materialize-incremental 2024-02-01T00:00:00 --version v2",
        "monitor run -p x --set-baseline",
        "validate -f s -r r 2024-01-01 2024-02-01",
        "dbt import -m manifest.json -e driver",
        "demo-notebooks --help",
        "mcp",
    ] {
        if let Err(error) = parse_feast(arguments) {
            unreachable!("{arguments}: {error}");
        }
    }
    for arguments in [
        "serve --role all",
        "serve -k key-alone",
        "serve -t flight",
        "feature-views set-state v gone",
        "entities check",
        "entities list -v",
        "entities current_project",
        "listen -a localhost",
    ] {
        assert!(parse_feast(arguments).is_err(), "{arguments}");
    }
}

#[test]
fn the_file_name_decides() {
    let called = |name: &str| Name::called(Some(OsStr::new(name)));
    assert_eq!(called("/usr/local/bin/feast"), Name::Feast);
    assert_eq!(called("feast"), Name::Feast);
    for name in ["/usr/local/bin/thali", "thali-0.1", "feaster", ""] {
        assert_eq!(called(name), Name::Thali, "{name}");
    }
    assert_eq!(Name::called(None), Name::Thali);
}

#[test]
fn what_thali_has_not_is_refused_by_name() {
    let invocation = parse_feast("monitor run --project p").unwrap();
    let Asked::Common(Command::Refused(refused)) = invocation.command else {
        unreachable!("not refused");
    };
    let error = refused.error(Name::Feast);
    assert!(error.message().contains("`monitor`"), "{error}");
    assert!(error.hint_text().is_some() && error.kind().is_callers_fault());
}

#[test]
fn levels_are_named_as_python_names_them() {
    for (given, level) in [("WARNING", "warn"), ("CRITICAL", "error"), ("Info", "info")] {
        let invocation = parse_feast(&format!("--log-level {given} version")).unwrap();
        assert_eq!(invocation.global.log_level.unwrap(), level);
    }
}

#[test]
fn servers_listen_where_feasts_do() {
    let listeners = |arguments: &str| -> Vec<String> {
        let options = match parse_feast(arguments).unwrap().command {
            Asked::ServeOnline(online) => online.options(),
            Asked::Common(Command::Servers(servers)) => servers.options(),
            other => unreachable!("{other:?}"),
        };
        let describe = |listen: &crate::node::Listen| {
            let plain = if listen.plain { " plain" } else { "" };
            format!("{} {} {}{plain}", listen.kind.name(), listen.host, listen.port)
        };
        options.unwrap().listen.iter().map(describe).collect()
    };
    assert_eq!(listeners("serve"), ["online 127.0.0.1 6566"]);
    assert_eq!(listeners("serve_registry"), ["registry :: 6570"]);
    assert_eq!(listeners("serve_offline"), ["offline 127.0.0.1 8815"]);
    assert_eq!(listeners("ui"), ["ui 0.0.0.0 8888"]);
    assert_eq!(listeners("listen"), ["online localhost 50051"]);
    assert_eq!(
        listeners("serve -m -k k -c c"),
        ["online 127.0.0.1 6566", "metrics :: 8000 plain"]
    );
    // The host is the REST server's alone, as in Feast.
    assert_eq!(
        listeners("serve_registry -r -h 127.0.0.1"),
        ["registry :: 6570", "registry-rest 127.0.0.1 6572"]
    );
    assert_eq!(
        listeners("serve_registry --no-grpc -r"),
        ["registry-rest :: 6572"]
    );
    assert_eq!(listeners("listen -a [::1]:5"), ["online ::1 5"]);
}
