//! Noticing that others have changed something: PostgreSQL says so, and everywhere there is a mark that
//! is cheap to ask for.

use std::{sync::Arc, time::Duration};

use sqlx::{AnyConnection, Row};
use tokio::{
    sync::{Mutex, Notify},
    task::JoinHandle,
};

use super::{super::Revision, dialect::Place};
use crate::{
    backoff::Backoff,
    database::{Database, Engine},
};

/// Where writers say on PostgreSQL which project they changed.
pub(super) const CHANNEL: &str = "thali_registry";

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Watches until it is dropped.
#[derive(Debug)]
pub(super) struct Watch {
    told: Arc<Notify>,
    listening: JoinHandle<()>,
    sqlite: Mutex<Sqlite>,
}

/// A connection that never writes: to it, every commit of any other one changes `data_version`.
#[derive(Debug, Default)]
struct Sqlite {
    connection: Option<AnyConnection>,
    /// Versions of different connections do not compare.
    connected: u64,
}

impl Watch {
    /// Listens to what the writers of `database` say.
    pub(super) fn start(database: &Database) -> Self {
        let told: Arc<Notify> = Arc::default();
        let listening = tokio::spawn(listen(database.clone(), Arc::clone(&told)));
        Self {
            told,
            listening,
            sqlite: Mutex::default(),
        }
    }

    /// Returns when somebody said something since it was last asked.
    pub(super) async fn changed(&self) {
        self.told.notified().await;
    }

    /// The mark of everything in `database`.
    pub(super) async fn revision(&self, database: &Database) -> Result<Revision, sqlx::Error> {
        if database.engine() == Engine::Sqlite {
            return self.data_version(database).await;
        }
        let place = Place::new(database, "");
        let rows = place.query(&place.dialect.watermark()).fetch_all(database.pool());
        let mut rows = rows
            .await?
            .iter()
            .map(|row| {
                let texts: [String; 3] = [row.try_get(1)?, row.try_get(2)?, row.try_get(3)?];
                Ok((row.try_get::<i64, _>(0)?, texts.join(",")))
            })
            .collect::<Result<Vec<_>, sqlx::Error>>()?;
        rows.sort();
        let rows: Vec<String> = rows.into_iter().map(|(_, sums)| sums).collect();
        Ok(Revision(rows.join(";")))
    }

    async fn data_version(&self, database: &Database) -> Result<Revision, sqlx::Error> {
        let mut own = self.sqlite.lock().await;
        // Taken out, so that a connection that failed or was left in the middle is not used again.
        let mut connection = match own.connection.take() {
            Some(connection) => connection,
            None => {
                own.connected += 1;
                database.alone().await?
            }
        };
        let row = sqlx::query("PRAGMA data_version")
            .fetch_one(&mut connection)
            .await?;
        let revision = Revision(format!("{}-{}", own.connected, row.try_get::<i64, _>(0)?));
        own.connection = Some(connection);
        Ok(revision)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

async fn listen(database: Database, told: Arc<Notify>) {
    let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
    loop {
        match database.listen(CHANNEL).await {
            Ok(Some(mut listener)) => {
                backoff.reset();
                // Nobody heard what was said until now.
                told.notify_one();
                while let Ok(Some(_)) = listener.try_recv().await {
                    told.notify_one();
                }
                tracing::debug!("the connection that tells of changes broke");
            }
            Ok(None) => return,
            Err(error) => tracing::debug!(%error, "changes are looked for until they are told of again"),
        }
        backoff.pause().await;
    }
}
