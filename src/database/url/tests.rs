#![expect(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::error::Kind;

fn parse(text: &str) -> DatabaseUrl {
    DatabaseUrl::parse(text, Path::new("/repo")).unwrap()
}

fn target(text: &str) -> String {
    parse(text).target().unwrap().to_string()
}

#[test]
fn every_form_feast_takes_is_read() {
    for (text, engine, shown) in [
        ("sqlite:///data/r.db", Engine::Sqlite, "sqlite:////repo/data/r.db"),
        ("sqlite:////abs/r.db", Engine::Sqlite, "sqlite:////abs/r.db"),
        (
            "sqlite+pysqlite:///r%20b.db?check_same_thread=false",
            Engine::Sqlite,
            "sqlite:////repo/r b.db",
        ),
        (
            "postgresql://u:p@h:5433/d",
            Engine::Postgres,
            "postgresql://u:***@h:5433/d",
        ),
        ("postgres://u@h/d", Engine::Postgres, "postgresql://u@h/d"),
        (
            "postgresql+psycopg://u:p@h/d",
            Engine::Postgres,
            "postgresql://u:***@h/d",
        ),
        ("postgresql+psycopg2://h/d", Engine::Postgres, "postgresql://h/d"),
        (
            "postgresql+asyncpg://u:p@[::1]:5432/d",
            Engine::Postgres,
            "postgresql://u:***@[::1]:5432/d",
        ),
        ("mysql://u:p@h/d", Engine::MySql, "mysql://u:***@h/d"),
        ("mysql+pymysql://u:@h/d", Engine::MySql, "mysql://u:***@h/d"),
        (
            "mysql+mysqldb://u:p@h:3307/d",
            Engine::MySql,
            "mysql://u:***@h:3307/d",
        ),
        ("mariadb://u:p@h/d", Engine::MySql, "mysql://u:***@h/d"),
        ("mariadb+pymysql://u:p@h/d", Engine::MySql, "mysql://u:***@h/d"),
    ] {
        let url = parse(text);
        assert_eq!(
            (url.engine(), url.to_string().as_str()),
            (engine, shown),
            "{text}"
        );
        assert!(url.warnings().is_empty(), "{text}: {:?}", url.warnings());
    }
    assert_eq!(
        parse("sqlite:///data/r.db").file(),
        Some(Path::new("/repo/data/r.db"))
    );
}

#[test]
fn passwords_arrive_whole_and_are_never_shown() {
    for (text, password) in [
        ("postgresql://u:p%40s%2Fs%3A%25@h/d", "p@s/s:%"),
        ("postgresql://u:p@w@h/d", "p@w"),
        ("postgresql://u:pa/ss?x@h/d", "pa/ss?x"),
        ("postgresql://u:a+b&c%20d@h/d?sslmode=require", "a+b&c d"),
        ("postgresql://h/d?user=u&password=s%26e", "s&e"),
        ("mysql+pymysql://u:p%40s%2Fs%3A%25@h/d", "p@s/s:%"),
    ] {
        let url = parse(text);
        let Place::Server(server) = &url.place else {
            unreachable!("a server")
        };
        assert_eq!(server.password.as_deref(), Some(password), "{text}");
        assert_eq!(server.host.as_deref(), Some("h"), "{text}");
        for shown in [url.to_string(), format!("{url:?}")] {
            assert!(shown.contains("u:***@h"), "{shown}");
            assert!(!shown.contains(password), "{shown}");
        }
        let target = url.target().unwrap();
        let arrived = match url.engine() {
            Engine::MySql => decode(target.password().unwrap()).unwrap(),
            _ => target
                .query_pairs()
                .find(|(key, _)| key == "password")
                .unwrap()
                .1
                .into_owned(),
        };
        assert_eq!(arrived, password, "{text}");
    }
}

#[test]
fn options_of_pythons_drivers_become_sqlxs() {
    assert_eq!(
        target(
            "postgresql://u@h/d?sslmode=verify-full&sslrootcert=/ca.pem&application_name=a&options=-csearch_path%3Dfeast"
        ),
        "postgres:///?user=u&host=h&dbname=d&sslmode=verify-full&sslrootcert=%2Fca.pem&application_name=a&options=-csearch_path%3Dfeast"
    );
    assert_eq!(
        target("postgresql:///d?host=/run/pg&port=5433"),
        "postgres:///?host=%2Frun%2Fpg&dbname=d&port=5433"
    );
    assert_eq!(
        target("postgresql+asyncpg://h/d?ssl=true&prepared_statement_cache_size=0"),
        "postgres:///?host=h&dbname=d&sslmode=require&statement-cache-capacity=0"
    );
    assert_eq!(
        target("mysql+pymysql://h/d?charset=latin1&ssl_ca=/ca.pem&ssl_verify_identity=true"),
        "mysql://root@h:3306/d?ssl-ca=%2Fca.pem&ssl-mode=VERIFY_IDENTITY"
    );
    assert_eq!(
        target("mysql://h/d?ssl_verify_identity=true&ssl_ca=/ca.pem"),
        "mysql://root@h:3306/d?ssl-mode=VERIFY_IDENTITY&ssl-ca=%2Fca.pem"
    );
    assert_eq!(
        target("mysql://u@/d?unix_socket=/run/m.sock"),
        "mysql://u@localhost:3306/d?socket=%2Frun%2Fm.sock"
    );
    assert_eq!(target("sqlite:////a b?mode=ro"), "sqlite:///a%20b?mode=ro");
    let url = parse("postgresql://h/d?connect_timeout=3&target_session_attrs=read-write");
    assert_eq!(url.connect_timeout(), Some(Duration::from_secs(3)));
    assert_eq!(
        url.warnings(),
        ["option `target_session_attrs` of the database URL means nothing to thali"]
    );
    let arguments = [("connect_timeout".to_owned(), "7".to_owned())];
    let url = url.with_options(&arguments).unwrap();
    assert_eq!(url.connect_timeout(), Some(Duration::from_secs(7)));
    let several = parse("postgresql://u@/d?host=a:1,b:2");
    assert_eq!(several.to_string(), "postgresql://u@a:1/d");
    assert_eq!(several.warnings().len(), 1);
}

#[test]
fn what_cannot_be_opened_is_said_without_the_password() {
    for (text, kind, expected) in [
        ("data/registry.db", Kind::Config, "this is not a database URL"),
        (
            "mssql+pyodbc://u:secret@h/d",
            Kind::Unsupported,
            "databases of the kind `mssql+pyodbc`",
        ),
        ("oracle://u:secret@h/d", Kind::Unsupported, "`oracle`"),
        ("sqlite://", Kind::Config, "in memory"),
        ("sqlite:///:memory:", Kind::Config, "in memory"),
        ("sqlite://r.db", Kind::Config, "three slashes"),
        (
            "postgresql://u:secret@h:port/d",
            Kind::Config,
            "`port` is no port",
        ),
        (
            "postgresql://u:secret@h/d?sslmode=maybe",
            Kind::Config,
            "`sslmode` cannot be `maybe`",
        ),
        (
            "postgresql://u:secret@h/d?connect_timeout=soon",
            Kind::Config,
            "`connect_timeout` wants a number of seconds",
        ),
        (
            "mysql://u:secret@h/d?ssl_mode=x",
            Kind::Config,
            "`ssl_mode` cannot be `x`",
        ),
    ] {
        let error = DatabaseUrl::parse(text, Path::new("/repo")).unwrap_err();
        let shown = error.to_string();
        assert_eq!(error.kind(), kind, "{shown}");
        assert!(shown.contains(expected), "{shown}");
        assert!(!shown.contains("secret"), "{shown}");
    }
}
