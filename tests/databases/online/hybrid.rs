//! Several online stores side by side.

use std::sync::Arc;

use thali::{
    error::Kind,
    model::FeatureView,
    online::store::{OlderRow, Table},
};

use super::{
    conformance::{HOUR, TEN, columns, encoded, group, key, pair, read, rows},
    home::Home,
};
use crate::servers;

fn home() -> Home {
    let endpoint = servers::url("THALI_TEST_DYNAMODB");
    Home::new(&format!(
        "type: hybrid\nrouting_tag: place\nonline_stores:\n- type: sqlite\n  conf: {{path: data/online.db}}\n\
         - type: feast.infra.online_stores.DynamoDB\n  conf: {{region: us-east-1, endpoint_url: '{endpoint}'}}"
    ))
}

fn placed(name: &str, place: &str) -> Arc<FeatureView> {
    let mut view = (*pair(name)).clone();
    if !place.is_empty() {
        view.tags.insert("place".to_owned(), place.to_owned());
    }
    Arc::new(view)
}

#[tokio::test]
async fn one_request_reads_of_several_stores() {
    let home = home();
    let store = home.open().await;
    let project = &home.project;
    let views = [
        placed("v", "dynamodb"),
        placed("w", "SQLite"),
        placed("x", "DynamoDB"),
    ];
    store.provision(project, &views, &[]).await.unwrap();
    for (view, time) in views.iter().zip([TEN, TEN + HOUR, TEN + 2 * HOUR]) {
        let name = view.name.as_str();
        let batch = rows(&["a", "b"], &[(key("1"), time, &[name, "b"])]);
        store
            .write(project, &Table::of(view), &batch, OlderRow::Skip)
            .await
            .unwrap();
    }
    let [v, w, x] = &views;
    let groups = [
        group(
            &[key("2"), key("1")],
            vec![columns(w, &["a"]), columns(v, &["b", "a"]), columns(x, &["a"])],
        ),
        group(&[key("1")], vec![columns(w, &["b"])]),
    ];
    let batches = read(&*store, project, &groups).await;
    let times: Vec<_> = batches.iter().map(|batch| batch.event_times.clone()).collect();
    assert_eq!(
        times,
        [
            vec![None, Some(TEN + HOUR)],
            vec![None, Some(TEN)],
            vec![None, Some(TEN + 2 * HOUR)],
            vec![Some(TEN + HOUR)],
        ]
    );
    assert_eq!(batches[0].values(), [None, Some(encoded("w"))]);
    assert_eq!(
        batches[1].values(),
        [None, None, Some(encoded("b")), Some(encoded("v"))]
    );
    assert_eq!(batches[2].values(), [None, Some(encoded("x"))]);
    assert_eq!(batches[3].values(), [Some(encoded("b"))]);
    store.check().await.unwrap();
    store
        .provision(project, &[], &views.each_ref().map(Table::of))
        .await
        .unwrap();
    let gone = read(&*store, project, &groups).await;
    assert!(
        gone.iter()
            .all(|batch| batch.event_times.iter().all(Option::is_none))
    );
    // Each store has its own of what stores record and can do.
    assert!(
        store
            .infra(project, v)
            .unwrap()
            .infra_object_class_type
            .ends_with("DynamoDBTable")
    );
    assert!(
        store
            .infra(project, w)
            .unwrap()
            .infra_object_class_type
            .ends_with("SqliteTable")
    );
}

#[tokio::test]
async fn a_view_that_belongs_nowhere_is_refused() {
    let home = home();
    let store = home.open().await;
    for (place, told) in [("", "has no tag `place`"), ("redis", "`place: redis`")] {
        let view = placed("v", place);
        let refused = store.accepts(&view.name, &view.tags).unwrap_err();
        assert_eq!(refused.kind(), Kind::InvalidArgument);
        assert!(
            refused.message().contains(told) && refused.message().contains("`v`"),
            "{refused}"
        );
        assert!(
            refused.hint_text().unwrap().contains("sqlite, dynamodb"),
            "{refused}"
        );
        let groups = [group(&[key("1")], vec![columns(&view, &["a"])])];
        let read = thali::online::store::OnlineRead {
            project: &home.project,
            groups: &groups,
        };
        assert_eq!(store.read(&read).await.unwrap_err().message(), refused.message());
        let batch = rows(&["a", "b"], &[(key("1"), TEN, &["a", "b"])]);
        let write = store
            .write(&home.project, &Table::of(&view), &batch, OlderRow::Skip)
            .await;
        assert_eq!(write.unwrap_err().message(), refused.message());
        // What could never be stored has nothing to drop.
        store
            .provision(&home.project, &[], &[Table::of(&view)])
            .await
            .unwrap();
    }
    assert!(store.accepts("v", &placed("v", "Sqlite").tags).is_ok());
}
