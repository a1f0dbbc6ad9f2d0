#![expect(clippy::unwrap_used, reason = "tests")]

use clap::CommandFactory as _;

use super::*;

fn parse(arguments: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(std::iter::once("thali").chain(arguments.split_whitespace()))
}

#[test]
fn the_definition_is_consistent() {
    Cli::command().debug_assert();
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
