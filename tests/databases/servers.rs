//! A new database for each test, on whichever engine it asks for.

use std::{env, path::Path};

use thali::database::{Database, DatabaseOptions, DatabaseUrl, Engine};

/// An empty database of its own.
pub(crate) struct Fresh {
    url: DatabaseUrl,
    /// As `SQLAlchemy` writes it, with the password.
    pub(crate) text: String,
    folder: tempfile::TempDir,
    admin: Option<Database>,
    name: String,
}

impl Fresh {
    pub(crate) async fn new(engine: Engine) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let name = format!("thali_{}", uuid::Uuid::new_v4().simple());
        let (text, admin) = match engine {
            Engine::Sqlite => (format!("sqlite:///{name}.db"), None),
            Engine::Postgres => in_server("THALI_TEST_POSTGRES", &name).await,
            Engine::MySql => in_server("THALI_TEST_MYSQL", &name).await,
        };
        Self {
            url: DatabaseUrl::parse(&text, folder.path()).unwrap(),
            text,
            folder,
            admin,
            name,
        }
    }

    /// A pool of its own, as another process has it.
    pub(crate) async fn open(&self) -> Database {
        Database::open(&self.url, &DatabaseOptions::default())
            .await
            .unwrap()
    }

    pub(crate) fn url(&self) -> &DatabaseUrl {
        &self.url
    }

    /// The URL with a part of its text replaced.
    pub(crate) fn with(&self, part: &str, other: &str) -> DatabaseUrl {
        assert!(self.text.contains(part), "the URL has no such part");
        DatabaseUrl::parse(&self.text.replace(part, other), self.folder.path()).unwrap()
    }

    /// Where it is, as an online store's keys in YAML.
    pub(crate) fn keys(&self) -> String {
        let url = url::Url::parse(&self.text).unwrap();
        let decoded = |(name, _): (std::borrow::Cow<'_, str>, _)| name.replace('\'', "''");
        let password = format!("{}=", url.password().unwrap().replace('+', "%2B"));
        let password = url::form_urlencoded::parse(password.as_bytes())
            .next()
            .map(decoded);
        format!(
            "host: {}\nport: {}\nuser: {}\npassword: '{}'\ndatabase: {}",
            url.host_str().unwrap(),
            url.port().unwrap(),
            url.username(),
            password.unwrap(),
            self.name,
        )
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The administrator's connections to the server.
    pub(crate) fn admin(&self) -> &Database {
        self.admin.as_ref().unwrap()
    }

    pub(crate) async fn remove(self) {
        if let Some(admin) = &self.admin {
            let force = match admin.engine() {
                Engine::Postgres => " WITH (FORCE)",
                _ => "",
            };
            run(admin, &format!("DROP DATABASE {}{force}", self.name)).await;
        }
    }
}

/// The address of a server of no particular kind.
pub(crate) fn url(variable: &str) -> String {
    env::var(variable).unwrap_or_else(|_| {
        panic!("`{variable}` is not set: `make test` starts the servers these tests need")
    })
}

async fn in_server(variable: &str, name: &str) -> (String, Option<Database>) {
    let text = url(variable);
    let url = DatabaseUrl::parse(&text, Path::new(".")).unwrap();
    let admin = Database::open(&url, &DatabaseOptions::default()).await.unwrap();
    run(&admin, &format!("CREATE DATABASE {name}")).await;
    let (server, _database) = text.rsplit_once('/').unwrap();
    (format!("{server}/{name}"), Some(admin))
}

pub(crate) async fn run(database: &Database, statement: &str) {
    let statement = sqlx::AssertSqlSafe(statement.to_owned());
    sqlx::raw_sql(statement).execute(database.pool()).await.unwrap();
}

/// The same tests on every engine: `on_every_engine!(a, b)` for `async fn a(&Fresh)`.
macro_rules! on_every_engine {
    ($($test:ident),* $(,)?) => {
        crate::servers::on_every_engine!(@ sqlite, Sqlite, $($test),*);
        crate::servers::on_every_engine!(@ postgres, Postgres, $($test),*);
        crate::servers::on_every_engine!(@ mysql, MySql, $($test),*);
    };
    (@ $module:ident, $engine:ident, $($test:ident),*) => {
        mod $module {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    let fresh = crate::servers::Fresh::new(thali::database::Engine::$engine).await;
                    super::$test(&fresh).await;
                    fresh.remove().await;
                }
            )*
        }
    };
}
pub(crate) use on_every_engine;
