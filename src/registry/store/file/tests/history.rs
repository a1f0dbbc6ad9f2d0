//! The history beside a registry file: what it holds after changes, crashes and races, on every place.

use std::sync::atomic::{AtomicUsize, Ordering};

use object_store::memory::InMemory;

use super::{
    super::{object::ObjectPlace, place::Lock},
    *,
};

/// Where the tests run: the same registry again at every call.
pub(in super::super) type Open = Box<dyn Fn() -> Box<dyn Place>>;

pub(in super::super) fn in_memory() -> Open {
    let store = Arc::new(InMemory::new());
    Box::new(move || Box::new(memory_place(Arc::clone(&store) as _)))
}

pub(in super::super) fn memory_place(store: Arc<dyn object_store::ObjectStore>) -> ObjectPlace {
    let key = object_store::path::Path::from("feast/registry.db");
    ObjectPlace::new(
        "mem://bucket/feast/registry.db".to_owned(),
        "bucket".to_owned(),
        store,
        key,
    )
}

/// Both places; the folder of the local one goes with the directory.
fn places() -> (tempfile::TempDir, Vec<Open>) {
    let directory = tempfile::tempdir().unwrap();
    let path = registry_path(&directory);
    let local: Open = Box::new(move || Box::new(LocalPlace::new(path.clone())));
    (directory, vec![local, in_memory()])
}

pub(in super::super) fn ann() -> Author {
    Author::new("ann", "apply")
}

/// Adds one more entity than there are.
pub(in super::super) async fn add_one(
    store: &FileStore,
    author: Option<&Author>,
) -> Result<Arc<ProjectState>> {
    let mut decide = |state: &ProjectState| Ok(vec![Change::Put(entity(&format!("e{}", count(state)), ""))]);
    store.update("p.q", author, &mut decide).await
}

pub(in super::super) fn count(state: &ProjectState) -> usize {
    state
        .objects
        .iter()
        .filter(|object| object.kind == ObjectKind::Entity)
        .count()
}

/// The history tells of exactly the changes that were made, each once and in order.
pub(in super::super) async fn history_matches(store: &FileStore) -> usize {
    let entities = count(&store.load("p.q").await.unwrap());
    let page = HistoryPage {
        before: None,
        limit: usize::MAX,
    };
    let entries = store.history("p.q", page).await.unwrap();
    let told: Vec<(u64, String)> = entries
        .iter()
        .flat_map(|entry| entry.objects.iter().map(|object| (entry.number, object)))
        .filter(|(_, object)| object.kind == ObjectKind::Entity)
        .map(|(number, object)| (number, object.name.clone()))
        .collect();
    let made: Vec<_> = (0..entities)
        .rev()
        .map(|made| (made as u64 + 1, format!("e{made}")))
        .collect();
    assert_eq!(told, made);
    entities
}

#[tokio::test]
async fn entries_are_counted_paged_and_kept_apart_by_project() {
    let (_directory, places) = places();
    for open in places {
        let store = FileStore::on(open()).await.unwrap();
        for _ in 0..5 {
            add_one(&store, Some(&ann())).await.unwrap();
        }
        change(&store, "other", vec![Change::Put(entity("x", ""))]).await;
        let nobody = HistoryPage {
            before: None,
            limit: 10,
        };
        assert!(
            store.history("other", nobody).await.unwrap().is_empty(),
            "no author, no entry"
        );
        assert_eq!(history_matches(&store).await, 5);
        let page = HistoryPage {
            before: Some(4),
            limit: 2,
        };
        let numbers =
            |entries: Vec<HistoryEntry>| entries.iter().map(|entry| entry.number).collect::<Vec<_>>();
        assert_eq!(numbers(store.history("p.q", page).await.unwrap()), [3, 2]);
        let first = store
            .history(
                "p.q",
                HistoryPage {
                    before: Some(2),
                    limit: 9,
                },
            )
            .await
            .unwrap();
        let first = first.first().unwrap();
        assert_eq!(first.author, ann());
        assert!(
            first
                .objects
                .iter()
                .all(|object| object.before.is_none() && object.after.is_some())
        );
        store
            .update("p.q", Some(&ann()), &mut |_| Ok(vec![Change::DeleteProject]))
            .await
            .unwrap();
        let newest = HistoryPage {
            before: None,
            limit: 1,
        };
        let gone = store.history("p.q", newest).await.unwrap();
        assert_eq!(
            gone.first().unwrap().number,
            6,
            "the history outlives the project"
        );
        assert_eq!(gone.first().unwrap().objects.len(), 6);
    }
}

#[tokio::test]
async fn only_the_newest_entries_are_kept() {
    let (_directory, places) = places();
    for open in places {
        let store = FileStore::on(open()).await.unwrap().keep_history(3);
        for _ in 0..5 {
            add_one(&store, Some(&ann())).await.unwrap();
        }
        let all = HistoryPage {
            before: None,
            limit: 10,
        };
        let numbers =
            |entries: Vec<HistoryEntry>| entries.iter().map(|entry| entry.number).collect::<Vec<_>>();
        assert_eq!(numbers(store.history("p.q", all).await.unwrap()), [5, 4, 3]);
        let none = store.clone().keep_history(0);
        add_one(&none, Some(&ann())).await.unwrap();
        assert_eq!(
            numbers(none.history("p.q", all).await.unwrap()),
            [5, 4, 3],
            "nothing is added nor lost"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_at_the_same_time_leave_one_entry_each() {
    let (_directory, places) = places();
    for open in places {
        let mut tasks = Vec::new();
        for _ in 0..3 {
            let store = FileStore::on(open()).await.unwrap();
            tasks.push(tokio::spawn(async move {
                for _ in 0..8 {
                    add_one(&store, Some(&ann())).await.unwrap();
                }
            }));
        }
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(history_matches(&FileStore::on(open()).await.unwrap()).await, 24);
        let left = open().list("pending").await.unwrap();
        assert_eq!(left, Vec::<String>::new());
    }
}

#[tokio::test]
async fn a_whole_history_takes_the_place_of_another() {
    let (_directory, places) = places();
    let all = HistoryPage {
        before: None,
        limit: 10,
    };
    for open in places {
        let store = FileStore::on(open()).await.unwrap();
        for _ in 0..4 {
            add_one(&store, Some(&ann())).await.unwrap();
        }
        let mut entries = store.history("p.q", all).await.unwrap();
        entries.reverse();
        let moved = Change::PutHistory(entries.split_off(2));
        store
            .update("q", None, &mut |_| Ok(vec![moved.clone()]))
            .await
            .unwrap();
        store
            .update("p.q", None, &mut |_| Ok(vec![moved.clone()]))
            .await
            .unwrap();
        let numbers =
            |entries: Vec<HistoryEntry>| entries.iter().map(|entry| entry.number).collect::<Vec<_>>();
        assert_eq!(numbers(store.history("p.q", all).await.unwrap()), [4, 3]);
        assert_eq!(numbers(store.history("q", all).await.unwrap()), [4, 3]);
        add_one(&store, Some(&ann())).await.unwrap();
        assert_eq!(numbers(store.history("p.q", all).await.unwrap()), [5, 4, 3]);
        assert_eq!(open().list("pending").await.unwrap(), Vec::<String>::new());
    }
}

#[tokio::test]
async fn a_whole_history_is_replaced_at_once_wherever_its_writer_dies() {
    let (_directory, places) = places();
    let all = HistoryPage {
        before: None,
        limit: 10,
    };
    for open in places {
        let store = FileStore::on(open()).await.unwrap();
        for _ in 0..4 {
            add_one(&store, Some(&ann())).await.unwrap();
        }
        let old = store.history("p.q", all).await.unwrap();
        let told = |entries: &[HistoryEntry]| {
            let mut entries = entries.to_vec();
            for entry in &mut entries {
                entry.number += 2;
                entry.author = Author::new("bob", "import");
            }
            entries.reverse();
            entries
        };
        let mut seen = Vec::new();
        for steps in 1..=12 {
            // The same beginning every time.
            let mut begin = old.clone();
            begin.reverse();
            let begin = Change::PutHistory(begin);
            store
                .update("p.q", None, &mut |_| Ok(vec![begin.clone()]))
                .await
                .unwrap();
            let mortal = Mortal {
                place: open(),
                steps: Arc::new(AtomicUsize::new(steps)),
            };
            let importer = FileStore::on(Box::new(mortal)).await.unwrap();
            let import = Change::PutHistory(told(&old));
            drop(
                importer
                    .update("p.q", None, &mut |_| Ok(vec![import.clone()]))
                    .await,
            );
            let survivor = FileStore::on(open()).await.unwrap();
            let mut found = survivor.history("p.q", all).await.unwrap();
            change(&survivor, "p.q", vec![Change::Put(entity("settles", ""))]).await;
            assert_eq!(survivor.history("p.q", all).await.unwrap(), found);
            found.reverse();
            let is_new = found == told(&old);
            found.reverse();
            assert!(is_new || found == old, "after {steps} steps");
            seen.push(is_new);
        }
        assert!(seen.contains(&true) && seen.contains(&false));
    }
}

/// A place whose process dies after some steps: from then on nothing is done any more.
#[derive(Debug)]
struct Mortal {
    place: Box<dyn Place>,
    steps: Arc<AtomicUsize>,
}

impl Mortal {
    fn step(&self) -> Result<()> {
        let left = self
            .steps
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        left.map(drop).map_err(|_| Error::unavailable("dead"))
    }

    fn lives(&self) -> Result<()> {
        match self.steps.load(Ordering::SeqCst) {
            0 => Err(Error::unavailable("dead")),
            _ => Ok(()),
        }
    }
}

#[async_trait]
impl Place for Mortal {
    fn name(&self) -> &str {
        self.place.name()
    }

    async fn look(&self, known: Option<&Mark>) -> Result<Look> {
        self.lives()?;
        self.place.look(known).await
    }

    async fn present_mark(&self) -> Result<Option<Mark>> {
        self.lives()?;
        self.place.present_mark().await
    }

    fn has_exact_marks(&self) -> bool {
        self.place.has_exact_marks()
    }

    async fn lock(&self) -> Result<Lock> {
        self.lives()?;
        self.place.lock().await
    }

    async fn replace(&self, content: Bytes, expected: Option<&Mark>) -> Result<Replaced> {
        self.step()?;
        self.place.replace(content, expected).await
    }

    async fn list(&self, folder: &str) -> Result<Vec<String>> {
        self.lives()?;
        self.place.list(folder).await
    }

    async fn get(&self, name: &str) -> Result<Option<Bytes>> {
        self.lives()?;
        self.place.get(name).await
    }

    async fn put(&self, name: &str, content: Bytes) -> Result<()> {
        self.step()?;
        self.place.put(name, content).await
    }

    async fn remove(&self, name: &str) -> Result<()> {
        self.step()?;
        self.place.remove(name).await
    }
}

#[tokio::test]
async fn a_death_after_any_step_leaves_a_state_and_its_history() {
    let (_directory, places) = places();
    for open in places {
        let mut made = 0;
        let mut was_lost = false;
        let mut was_made_unseen = false;
        // One step more each time, each life beginning with what the deaths before it left.
        for steps in 1..=40 {
            let left = Arc::new(AtomicUsize::new(steps));
            let mortal = Mortal {
                place: open(),
                steps: Arc::clone(&left),
            };
            let store = FileStore::on(Box::new(mortal)).await.unwrap();
            let before = made;
            let mut acknowledged = before;
            // What is answered after death nobody hears.
            while add_one(&store, Some(&ann())).await.is_ok() && left.load(Ordering::SeqCst) > 0 {
                acknowledged += 1;
            }
            let survivor = FileStore::on(open()).await.unwrap();
            made = history_matches(&survivor).await;
            assert!(
                made == acknowledged || made == acknowledged + 1,
                "{before} {acknowledged} {made}"
            );
            was_lost |= made == acknowledged;
            was_made_unseen |= made > acknowledged;
            if steps % 3 == 0 {
                add_one(&survivor, Some(&ann())).await.unwrap();
                made = history_matches(&survivor).await;
                assert_eq!(open().list("pending").await.unwrap(), Vec::<String>::new());
            }
        }
        assert!(was_lost && was_made_unseen, "both happened");
    }
}
