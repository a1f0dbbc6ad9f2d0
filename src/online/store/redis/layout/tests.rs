#![expect(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::{
    model::FeatureView,
    online::{fixture::feature_view, store::Table},
};

fn columns(name: &str, features: &[&str]) -> ViewColumns {
    let view = Arc::new(FeatureView::from_object(&feature_view(name, &[], &[])).unwrap());
    ViewColumns {
        table: Table::of(&view),
        features: features.iter().map(ToString::to_string).collect(),
    }
}

#[test]
fn a_field_is_asked_once_and_goes_wherever_it_is_wanted() {
    let first = [columns("v", &["a", "b"]), columns("w", &["a"])];
    let second = [columns("v", &["b"])];
    let layout = Layout::new(&[&first, &second]);
    assert_eq!(layout.len(), 5);
    let at = |group, view, column| Target { group, view, column };
    let b = layout.find(&redis_field_hash("v", "b")).unwrap();
    assert_eq!(layout.targets(b), [at(0, 0, Some(1)), at(1, 0, Some(0))]);
    let time = layout.find(b"_ts:v").unwrap();
    assert_eq!(layout.targets(time), [at(0, 0, None), at(1, 0, None)]);
    assert_eq!(layout.find(b"_ts:x"), None);
    assert_eq!(layout.find(&redis_field_hash("v", "c")), None);
    assert!(layout.arguments.starts_with(b"$4\r\n"));
}

#[test]
fn whole_hashes_are_read_where_that_is_cheaper() {
    let wide: Vec<String> = (0..249).map(|number| format!("f{number}")).collect();
    let wide: Vec<&str> = wide.iter().map(String::as_str).collect();
    let of = |count: usize| Layout::new(&[&[columns("v", &wide[..count])]]);
    for (features, size, packed, whole) in [
        (249, 0, true, false),
        (249, 260, true, true),
        (249, 260, false, false),
        (60, 260, true, true),
        (30, 260, true, false),
        (10, 12, true, false),
    ] {
        let layout = of(features);
        layout.learn(size, packed);
        assert_eq!(layout.reads_whole(), whole, "{features} of {size}");
    }
    let layout = of(1);
    assert!(layout.wants_to_know() && layout.wants_to_know());
    layout.learn(12, true);
    assert!(!layout.wants_to_know());
}

#[test]
fn layouts_are_kept_as_long_as_their_views() {
    let layouts = Layouts::default();
    let views: Arc<[ViewColumns]> = vec![columns("v", &["a"])].into();
    let layout = layouts.get(&views);
    assert!(Arc::ptr_eq(&layout, &layouts.get(&views)));
    for _ in 0..2 * CAPACITY {
        let others: Arc<[ViewColumns]> = vec![columns("w", &["a", "b"])].into();
        assert_eq!(layouts.get(&others).len(), 3);
    }
    assert_eq!(layouts.get(&views).len(), 2);
}
