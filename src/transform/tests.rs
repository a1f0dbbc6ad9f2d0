//! What the tests of this module share, and views computed from end to end without processes.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;

use bytes::Bytes;

use super::*;
use crate::model::{Field, value::Kind};

pub(super) fn field(name: &str, value_type: ValueType) -> Field {
    Field {
        name: name.to_owned(),
        value_type,
        description: String::new(),
        tags: BTreeMap::new(),
        vector_index: false,
    }
}

pub(super) fn view(transformation: Transformation) -> OnDemandFeatureView {
    OnDemandFeatureView {
        project: "p".to_owned(),
        name: "view".to_owned(),
        features: Vec::new(),
        inputs: Vec::new(),
        transformation,
        write_to_online_store: false,
        entities: Vec::new(),
        join_keys: Vec::new(),
        tags: BTreeMap::new(),
        enabled: true,
        track_metrics: false,
    }
}

pub(super) fn input<'a>(name: &'a str, value_type: ValueType, values: &'a [Value]) -> Input<'a> {
    Input {
        name: name.into(),
        value_type,
        cells: Cells::Values(values.into()),
    }
}

fn transformer() -> Transformer {
    let off = PythonConfig {
        enabled: false,
        ..PythonConfig::default()
    };
    Transformer::new(off, Arc::default())
}

fn expressions(texts: &[(&str, ValueType, &str)]) -> OnDemandFeatureView {
    let by_name = texts
        .iter()
        .map(|(name, _, text)| ((*name).to_owned(), (*text).to_owned()));
    let mut view = view(Transformation::Expressions(by_name.collect()));
    view.features = texts
        .iter()
        .map(|(name, value_type, _)| field(name, *value_type))
        .collect();
    view
}

#[tokio::test]
async fn expressions_give_the_same_online_and_on_a_batch() {
    let view = expressions(&[
        ("sum", ValueType::Double, "a + v__b"),
        ("whole", ValueType::Int64, "v__b * 2"),
        ("text", ValueType::String, "upper(t)"),
    ]);
    let program = Program::new(Arc::new(view));
    let doubles: Vec<Value> = vec![Kind::DoubleVal(1.5).into(), value::NULL];
    let stored: Vec<Bytes> = [Kind::Int64Val(2), Kind::Int64Val(3)]
        .map(|kind| Value::from(kind).encode_to_vec().into())
        .into();
    let texts: Vec<Value> = vec![
        Kind::StringVal("x".to_owned()).into(),
        Kind::StringVal("y".to_owned()).into(),
    ];
    let inputs = [
        input("a", ValueType::Double, &doubles),
        Input {
            name: "b".into(),
            value_type: ValueType::Int64,
            cells: Cells::Encoded(stored.iter().map(|cell| Some(&cell[..])).collect()),
        },
        Input {
            name: "v__b".into(),
            value_type: ValueType::Int64,
            cells: Cells::Same(1),
        },
        input("t", ValueType::String, &texts),
    ];
    let transformer = transformer();
    let online = transformer
        .compute(&program, &inputs, 2, Occasion::Read)
        .await
        .unwrap();
    assert_eq!(online[0], [Kind::DoubleVal(3.5).into(), value::NULL]);
    assert_eq!(online[1], [Kind::Int64Val(4).into(), Kind::Int64Val(6).into()]);
    let places = [0, 1, 2, 3];
    let offline = batch(&inputs, &places, Arc::new(schema(&inputs)), 2).unwrap();
    let offline = transformer.transform(&program, &offline).await.unwrap();
    assert_eq!(values_of(&program.view, offline.columns()).unwrap(), online);
}

#[tokio::test]
async fn a_view_that_cannot_be_run_says_why() {
    let transformer = transformer();
    for (transformation, why) in [
        (Transformation::Substrait(Bytes::new()), "Substrait"),
        (Transformation::Missing, "no transformation"),
    ] {
        let program = Program::new(Arc::new(view(transformation)));
        let error = transformer
            .compute(&program, &[], 1, Occasion::Read)
            .await
            .unwrap_err();
        assert!(error.kind() == crate::error::Kind::Unsupported, "{error}");
        assert!(
            error.message().contains(why) && error.message().contains("`view`"),
            "{error}"
        );
    }
}

#[tokio::test]
async fn only_views_that_ask_for_it_are_timed() {
    let metrics: Arc<Metrics> = Arc::default();
    let transformer = Transformer::new(PythonConfig::default(), Arc::clone(&metrics));
    let mut view = expressions(&[("x", ValueType::Double, "1.5")]);
    for (track, occasion) in [
        (false, Occasion::Read),
        (true, Occasion::Read),
        (true, Occasion::Write),
    ] {
        view.track_metrics = track;
        let program = Program::new(Arc::new(view.clone()));
        transformer.compute(&program, &[], 1, occasion).await.unwrap();
    }
    let text = metrics.render();
    let counted = |name: &str| text.contains(&format!("{name}_count{{odfv_name=\"view\",mode=\"sql\"}} 1"));
    assert!(
        counted("feast_feature_server_transformation_duration_seconds"),
        "{text}"
    );
    assert!(
        counted("feast_feature_server_write_transformation_duration_seconds"),
        "{text}"
    );
}
