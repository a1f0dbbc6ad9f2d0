//! What every registry store has to remember of who changed what.

use std::sync::Arc;

use thali::{
    model::ObjectKind,
    registry::store::{
        Change, ProjectState, RegistryStore,
        history::{Author, HistoryEntry, HistoryPage},
    },
};

use super::{change, entity, version, view};

const PROJECT: &str = "told";
const EVERYTHING: HistoryPage = HistoryPage {
    before: None,
    limit: 1_000,
};

async fn by(store: &dyn RegistryStore, author: &Author, changes: Vec<Change>) -> Arc<ProjectState> {
    let mut decide = |_: &ProjectState| Ok(changes.clone());
    store.update(PROJECT, Some(author), &mut decide).await.unwrap()
}

async fn entries(store: &dyn RegistryStore, page: HistoryPage) -> Vec<HistoryEntry> {
    store.history(PROJECT, page).await.unwrap()
}

fn numbers(entries: &[HistoryEntry]) -> Vec<u64> {
    entries.iter().map(|entry| entry.number).collect()
}

pub(super) async fn all(store: &dyn RegistryStore) {
    entries_tell_who_changed_what(store).await;
    pages(store).await;
    a_deleted_project_keeps_its_history(store).await;
    a_history_is_replaced(store).await;
    change(store, PROJECT, vec![Change::DeleteProject]).await;
}

async fn entries_tell_who_changed_what(store: &dyn RegistryStore) {
    let ann = Author::new("ann", "apply");
    assert!(entries(store, EVERYTHING).await.is_empty());
    change(store, PROJECT, vec![Change::Put(entity("quiet", ""))]).await;
    assert!(entries(store, EVERYTHING).await.is_empty(), "no author, no entry");
    by(
        store,
        &ann,
        vec![Change::Put(entity("e", "first")), Change::Put(view("v"))],
    )
    .await;
    let changes = vec![
        Change::Put(entity("e", "second")),
        Change::Delete(ObjectKind::FeatureView, "v".to_owned()),
    ];
    by(store, &Author::new("bob", "rollback to 1"), changes).await;
    let metadata = Change::PutMetadata("recently_visited_ann".to_owned(), "[]".to_owned());
    by(store, &ann, vec![metadata]).await;
    let told = entries(store, EVERYTHING).await;
    assert_eq!(numbers(&told), [2, 1], "an entry is of changes to objects");
    let [bobs, anns] = &told[..] else {
        panic!("{told:?}")
    };
    assert_eq!((&anns.author, bobs.author.name.as_str()), (&ann, "bob"));
    assert_eq!(bobs.author.action, "rollback to 1");
    assert!(bobs.time >= anns.time);
    let of = |entry: &HistoryEntry, name: &str| {
        let object = entry.objects.iter().find(|object| object.name == name);
        object.cloned().unwrap()
    };
    assert_eq!(of(anns, "e").before, None);
    // A file says in every object which project it belongs to.
    assert_eq!(of(bobs, "e").before, of(anns, "e").after);
    assert_ne!(of(bobs, "e").before, of(bobs, "e").after);
    assert_eq!(of(bobs, "v").after, None);
    assert_eq!(of(bobs, "v").kind, ObjectKind::FeatureView);
    assert_eq!(bobs.objects.len(), 2);
}

async fn pages(store: &dyn RegistryStore) {
    let ann = Author::new("ann", "apply");
    for number in 3..=7 {
        by(store, &ann, vec![Change::Put(entity("e", &number.to_string()))]).await;
    }
    let page = |before, limit| HistoryPage { before, limit };
    assert_eq!(numbers(&entries(store, page(None, 3)).await), [7, 6, 5]);
    assert_eq!(numbers(&entries(store, page(Some(5), 3)).await), [4, 3, 2]);
    assert_eq!(numbers(&entries(store, page(Some(2), 3)).await), [1]);
    assert!(entries(store, page(Some(1), 3)).await.is_empty());
    assert!(entries(store, page(None, 0)).await.is_empty());
    assert!(store.history("another", EVERYTHING).await.unwrap().is_empty());
}

async fn a_deleted_project_keeps_its_history(store: &dyn RegistryStore) {
    let ann = Author::new("ann", "delete");
    let changes = vec![
        Change::Put(view("v")),
        Change::PutVersion(version("v", 0)),
        Change::PutInfra(bytes::Bytes::from_static(b"\x0a\x00")),
    ];
    change(store, PROJECT, changes).await;
    let gone = by(store, &ann, vec![Change::DeleteProject]).await;
    assert!(gone.is_empty());
    let told = entries(store, EVERYTHING).await;
    assert_eq!(numbers(&told), [8, 7, 6, 5, 4, 3, 2, 1]);
    let last = told.first().unwrap();
    assert!(last.objects.len() >= 3 && last.objects.iter().all(|object| object.after.is_none()));
    assert_eq!(last.removed_versions.len(), 1);
    assert!(last.removed_infra.is_some());
    by(store, &ann, vec![Change::Put(entity("again", ""))]).await;
    assert_eq!(numbers(&entries(store, EVERYTHING).await).first(), Some(&9));
}

async fn a_history_is_replaced(store: &dyn RegistryStore) {
    let mut kept = entries(store, EVERYTHING).await;
    kept.retain(|entry| (3..=5).contains(&entry.number));
    kept.reverse();
    change(store, PROJECT, vec![Change::PutHistory(kept.clone())]).await;
    kept.reverse();
    assert_eq!(entries(store, EVERYTHING).await, kept);
    by(
        store,
        &Author::anonymous("apply"),
        vec![Change::Put(entity("next", ""))],
    )
    .await;
    assert_eq!(numbers(&entries(store, EVERYTHING).await), [6, 5, 4, 3]);
}

/// A store that is told to keep `keep` entries.
pub(in super::super) async fn is_pruned(store: &dyn RegistryStore, keep: u64) {
    let ann = Author::new("ann", "apply");
    for number in 1..=keep + 3 {
        by(store, &ann, vec![Change::Put(entity("e", &number.to_string()))]).await;
    }
    let left: Vec<u64> = (4..=keep + 3).rev().collect();
    assert_eq!(numbers(&entries(store, EVERYTHING).await), left);
}
