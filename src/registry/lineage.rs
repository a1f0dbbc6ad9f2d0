//! Which object is made from which: edges between the objects of one project, read from a catalog.
//!
//! Pure functions. The edges and their order are those of Feast (`feast/lineage/registry_lineage.py`),
//! and then those it leaves out: the stream source of a plain feature view, the views a derived view
//! is made from, entities and features of stream views, and saved datasets.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::Catalog;
use crate::{
    error::{Error, Result},
    model::{FeatureRef, FeatureView, ObjectKind, feature_view::DUMMY_ENTITY_NAME},
    proto::feast::core::{self, data_source::Options, on_demand_source::Source, saved_dataset_storage},
};

/// The kinds of node, as Feast names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum NodeKind {
    DataSource,
    Entity,
    FeatureView,
    LabelView,
    FeatureService,
    Feature,
    SavedDataset,
}

impl NodeKind {
    const ALL: [Self; 7] = [
        Self::DataSource,
        Self::Entity,
        Self::FeatureView,
        Self::LabelView,
        Self::FeatureService,
        Self::Feature,
        Self::SavedDataset,
    ];

    /// The name on the wire: `featureView`.
    pub fn name(self) -> &'static str {
        match self {
            Self::DataSource => "dataSource",
            Self::Entity => "entity",
            Self::FeatureView => "featureView",
            Self::LabelView => "labelView",
            Self::FeatureService => "featureService",
            Self::Feature => "feature",
            Self::SavedDataset => "savedDataset",
        }
    }

    /// The kind of that name.
    ///
    /// # Errors
    /// `InvalidArgument` naming the kinds there are.
    pub fn from_name(name: &str) -> Result<Self> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.name() == name)
            .ok_or_else(|| {
                Error::invalid(format!("`{name}` is no object type"))
                    .hint(format!("one of {}", Self::ALL.map(Self::name).join(", ")))
            })
    }

    fn is_view(self) -> bool {
        matches!(self, Self::FeatureView | Self::LabelView)
    }
}

/// One end of an edge.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Node {
    pub kind: NodeKind,
    pub name: String,
}

impl Node {
    /// A node.
    pub fn new(kind: NodeKind, name: impl Into<String>) -> Self {
        Self {
            kind,
            name: name.into(),
        }
    }
}

/// An edge: `target` is made from `source`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Relation {
    pub source: Node,
    pub target: Node,
}

impl Relation {
    fn new(source: NodeKind, from: impl Into<String>, target: NodeKind, to: impl Into<String>) -> Self {
        Self {
            source: Node::new(source, from),
            target: Node::new(target, to),
        }
    }

    /// Whether the object is one of its ends.
    pub fn touches(&self, node: &Node) -> bool {
        self.source == *node || self.target == *node
    }
}

/// All edges of a project.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lineage {
    /// Between objects that name each other.
    pub direct: Vec<Relation>,
    /// Entities and sources of a service (through its views), and sources of an entity.
    pub indirect: Vec<Relation>,
}

impl Lineage {
    /// Reads the edges of a project.
    ///
    /// # Errors
    /// `Internal` when stored bytes are malformed.
    pub fn of(catalog: &Catalog) -> Result<Self> {
        let services = services(catalog);
        let mut direct = Vec::new();
        for service in &services {
            direct.extend(service_edges(catalog, service));
        }
        for object in catalog.objects(ObjectKind::FeatureView) {
            let proto: core::FeatureView = object.decode()?;
            feature_view_edges(
                &FeatureView::from_object(object)?,
                &proto.spec.unwrap_or_default(),
                &mut direct,
            );
        }
        let mut on_demand = Vec::new();
        for object in catalog.objects(ObjectKind::OnDemandFeatureView) {
            let mut spec = object
                .decode::<core::OnDemandFeatureView>()?
                .spec
                .unwrap_or_default();
            spec.name.clone_from(&object.name);
            on_demand.push(spec);
        }
        for spec in &on_demand {
            entity_edges(&spec.entities, &spec.name, NodeKind::FeatureView, &mut direct);
            feature_edges(
                spec.features.iter().map(|f| f.name.as_str()),
                &spec.name,
                &mut direct,
            );
        }
        for spec in &on_demand {
            direct.extend(
                spec.sources
                    .values()
                    .filter_map(|source| on_demand_edge(source, &spec.name)),
            );
        }
        for object in catalog.objects(ObjectKind::StreamFeatureView) {
            stream_view_edges(&FeatureView::from_object(object)?, &mut direct);
        }
        for object in catalog.objects(ObjectKind::LabelView) {
            label_view_edges(&FeatureView::from_object(object)?, &mut direct);
        }
        saved_dataset_edges(catalog, &mut direct)?;
        let indirect = indirect(&services, &direct);
        Ok(Self { direct, indirect })
    }

    /// Keeps the edges that touch the object.
    pub fn retain(&mut self, node: &Node) {
        self.direct.retain(|relation| relation.touches(node));
        self.indirect.retain(|relation| relation.touches(node));
    }

    /// Every edge that touches the object, direct ones first.
    pub fn touching(&self, node: &Node, include_indirect: bool) -> Vec<&Relation> {
        let indirect = if include_indirect {
            self.indirect.as_slice()
        } else {
            &[]
        };
        self.direct
            .iter()
            .chain(indirect)
            .filter(|relation| relation.touches(node))
            .collect()
    }
}

/// Services in the store's order, each with the names of the views it projects.
fn services(catalog: &Catalog) -> Vec<(&str, Vec<&core::FeatureViewProjection>)> {
    let objects = catalog.objects(ObjectKind::FeatureService).iter();
    let service = |name: &'_ str| catalog.service(name).ok()?.spec.as_ref();
    objects
        .filter_map(|object| {
            Some((
                object.name.as_str(),
                service(&object.name)?.features.iter().collect(),
            ))
        })
        .collect()
}

fn service_edges(catalog: &Catalog, service: &(&str, Vec<&core::FeatureViewProjection>)) -> Vec<Relation> {
    let (name, projections) = service;
    let edge = |projection: &&core::FeatureViewProjection| {
        let view = &projection.feature_view_name;
        let label =
            projection.view_type == "labelView" || catalog.object(ObjectKind::LabelView, view).is_some();
        let kind = if label {
            NodeKind::LabelView
        } else {
            NodeKind::FeatureView
        };
        Relation::new(kind, view, NodeKind::FeatureService, *name)
    };
    projections.iter().map(edge).collect()
}

fn entity_edges(entities: &[String], view: &str, kind: NodeKind, edges: &mut Vec<Relation>) {
    edges.extend(
        entities
            .iter()
            .map(|entity| Relation::new(NodeKind::Entity, entity, kind, view)),
    );
}

fn feature_edges<'a>(features: impl Iterator<Item = &'a str>, view: &str, edges: &mut Vec<Relation>) {
    edges.extend(
        features.map(|feature| Relation::new(NodeKind::Feature, feature, NodeKind::FeatureView, view)),
    );
}

fn source_edge(source: Option<&core::DataSource>, view: &str, kind: NodeKind, edges: &mut Vec<Relation>) {
    if let Some(source) = source.filter(|source| !source.name.is_empty()) {
        edges.push(Relation::new(NodeKind::DataSource, &source.name, kind, view));
    }
}

fn feature_view_edges(view: &FeatureView, spec: &core::FeatureViewSpec, edges: &mut Vec<Relation>) {
    let kind = NodeKind::FeatureView;
    entity_edges(&view.entities, &view.name, kind, edges);
    feature_edges(view.features.iter().map(|f| f.name.as_str()), &view.name, edges);
    match view.batch_source.as_deref() {
        // Feast makes up a name from a hash that differs in every process; ours stays the same.
        Some(source) if source.name.is_empty() => {
            edges.push(Relation::new(
                NodeKind::DataSource,
                format!("unnamed_source_{}", view.name),
                kind,
                &view.name,
            ));
        }
        source => source_edge(source, &view.name, kind, edges),
    }
    source_edge(view.stream_source.as_deref(), &view.name, kind, edges);
    edges.extend(
        spec.source_views
            .iter()
            .map(|source| Relation::new(kind, &source.name, kind, &view.name)),
    );
}

fn on_demand_edge(source: &core::OnDemandSource, view: &str) -> Option<Relation> {
    let (kind, name) = match source.source.as_ref()? {
        Source::RequestDataSource(source) => (NodeKind::DataSource, source.name.clone()),
        Source::FeatureViewProjection(projection) => {
            (NodeKind::FeatureView, projection.feature_view_name.clone())
        }
        Source::FeatureView(view) => (NodeKind::FeatureView, view.spec.clone().unwrap_or_default().name),
    };
    (!name.is_empty()).then(|| Relation::new(kind, name, NodeKind::FeatureView, view))
}

fn stream_view_edges(view: &FeatureView, edges: &mut Vec<Relation>) {
    let kind = NodeKind::FeatureView;
    source_edge(view.stream_source.as_deref(), &view.name, kind, edges);
    source_edge(view.batch_source.as_deref(), &view.name, kind, edges);
    entity_edges(&view.entities, &view.name, kind, edges);
    feature_edges(view.features.iter().map(|f| f.name.as_str()), &view.name, edges);
}

fn label_view_edges(view: &FeatureView, edges: &mut Vec<Relation>) {
    entity_edges(&view.entities, &view.name, NodeKind::LabelView, edges);
    source_edge(
        view.stream_source.as_deref(),
        &view.name,
        NodeKind::LabelView,
        edges,
    );
    source_edge(
        view.batch_source.as_deref(),
        &view.name,
        NodeKind::LabelView,
        edges,
    );
}

fn saved_dataset_edges(catalog: &Catalog, edges: &mut Vec<Relation>) -> Result<()> {
    let datasets = catalog.objects(ObjectKind::SavedDataset);
    if datasets.is_empty() {
        return Ok(());
    }
    let mut by_location = HashMap::new();
    for object in catalog.objects(ObjectKind::DataSource) {
        let source: core::DataSource = object.decode()?;
        by_location.extend(
            source_locations(&source)
                .into_iter()
                .map(|location| (location, object.name.clone())),
        );
    }
    for object in datasets {
        let spec = object.decode::<core::SavedDataset>()?.spec.unwrap_or_default();
        let mut edge = |kind, name: &str| {
            edges.push(Relation::new(kind, name, NodeKind::SavedDataset, &object.name));
        };
        if !spec.feature_service_name.is_empty() {
            edge(NodeKind::FeatureService, &spec.feature_service_name);
        }
        let mut seen = HashSet::new();
        for reference in spec
            .features
            .iter()
            .filter_map(|text| FeatureRef::parse(text).ok())
        {
            if seen.insert(reference.view.clone()) {
                edge(NodeKind::FeatureView, &reference.view);
            }
        }
        let locations = spec
            .storage
            .and_then(|storage| storage.kind)
            .map(storage_locations)
            .unwrap_or_default();
        let sources: BTreeSet<_> = locations
            .iter()
            .filter_map(|location| by_location.get(location))
            .collect();
        for source in sources {
            edge(NodeKind::DataSource, source);
        }
    }
    Ok(())
}

/// The paths and tables a source reads.
fn source_locations(source: &core::DataSource) -> Vec<String> {
    let mut found = match &source.options {
        Some(Options::FileOptions(file)) => vec![file.uri.clone()],
        Some(Options::BigqueryOptions(table)) => vec![table.table.clone()],
        Some(Options::RedshiftOptions(table)) => vec![table.table.clone()],
        Some(Options::SnowflakeOptions(table)) => vec![table.table.clone()],
        Some(Options::SparkOptions(spark)) => vec![spark.path.clone(), spark.table.clone()],
        Some(Options::TrinoOptions(table)) => vec![table.table.clone()],
        Some(Options::AthenaOptions(table)) => vec![table.table.clone()],
        _ => vec![],
    };
    if let Some(inner) = source.batch_source.as_deref() {
        found.extend(source_locations(inner));
    }
    found.retain(|location| !location.is_empty());
    found
}

/// The paths and tables a saved dataset lies in.
fn storage_locations(storage: saved_dataset_storage::Kind) -> Vec<String> {
    use saved_dataset_storage::Kind;
    let mut found = match storage {
        Kind::FileStorage(file) => vec![file.uri],
        Kind::BigqueryStorage(table) => vec![table.table],
        Kind::RedshiftStorage(table) => vec![table.table],
        Kind::SnowflakeStorage(table) => vec![table.table],
        Kind::SparkStorage(spark) => vec![spark.path, spark.table],
        Kind::TrinoStorage(table) => vec![table.table],
        Kind::AthenaStorage(table) => vec![table.table],
        Kind::CustomStorage(_) => vec![],
    };
    found.retain(|location| !location.is_empty());
    found
}

fn indirect(services: &[(&str, Vec<&core::FeatureViewProjection>)], direct: &[Relation]) -> Vec<Relation> {
    let mut into_view: HashMap<&str, Vec<&Node>> = HashMap::new();
    for relation in direct.iter().filter(|relation| relation.target.kind.is_view()) {
        into_view
            .entry(&relation.target.name)
            .or_default()
            .push(&relation.source);
    }
    let mut found = Vec::new();
    for (service, projections) in services {
        for projection in projections {
            for source in into_view
                .get(projection.feature_view_name.as_str())
                .into_iter()
                .flatten()
            {
                let target = Node::new(NodeKind::FeatureService, *service);
                found.push(Relation {
                    source: (*source).clone(),
                    target,
                });
            }
        }
    }
    for relation in direct {
        if relation.source.kind != NodeKind::Entity || !relation.target.kind.is_view() {
            continue;
        }
        for source in into_view.get(relation.target.name.as_str()).into_iter().flatten() {
            if source.kind == NodeKind::DataSource {
                let target = Node::new(NodeKind::DataSource, &source.name);
                found.push(Relation {
                    source: relation.source.clone(),
                    target,
                });
            }
        }
    }
    found
}

/// Whether the node is the stand-in of views without entities, which people need not see.
pub fn is_dummy(node: &Node) -> bool {
    node.kind == NodeKind::Entity && node.name == DUMMY_ENTITY_NAME
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::registry::samples;

    fn edges(relations: &[Relation]) -> Vec<String> {
        let end = |node: &Node| format!("{}:{}", node.kind.name(), node.name);
        relations
            .iter()
            .map(|r| format!("{} > {}", end(&r.source), end(&r.target)))
            .collect()
    }

    #[test]
    fn direct_edges_come_in_feasts_order() {
        let lineage = Lineage::of(&samples::catalog()).unwrap();
        assert_eq!(
            edges(&lineage.direct),
            [
                "featureView:trips > featureService:model",
                "labelView:verdicts > featureService:model",
                "entity:driver > featureView:trips",
                "feature:rate > featureView:trips",
                "feature:count > featureView:trips",
                "dataSource:trips_file > featureView:trips",
                "dataSource:trips_push > featureView:trips",
                "feature:doubled > featureView:twice",
                "dataSource:request > featureView:twice",
                "featureView:trips > featureView:twice",
                "entity:driver > labelView:verdicts",
                "dataSource:verdicts_push > labelView:verdicts",
                "dataSource:verdicts_file > labelView:verdicts",
                "featureService:model > savedDataset:train",
                "featureView:trips > savedDataset:train",
                "dataSource:trips_file > savedDataset:train",
            ]
        );
    }

    #[test]
    fn indirect_edges_go_through_views() {
        let lineage = Lineage::of(&samples::catalog()).unwrap();
        let indirect = edges(&lineage.indirect);
        assert!(indirect.contains(&"entity:driver > featureService:model".to_owned()));
        assert!(indirect.contains(&"dataSource:verdicts_file > featureService:model".to_owned()));
        assert!(indirect.contains(&"entity:driver > dataSource:trips_file".to_owned()));
        let twice = indirect
            .iter()
            .filter(|edge| *edge == "entity:driver > featureService:model")
            .count();
        assert_eq!(twice, 2, "one for each view of the service, as in Feast");
    }

    #[test]
    fn an_objects_own_edges() {
        let lineage = Lineage::of(&samples::catalog()).unwrap();
        let node = Node::new(NodeKind::from_name("savedDataset").unwrap(), "train");
        assert_eq!(lineage.touching(&node, true).len(), 3);
        let mut only = lineage.clone();
        only.retain(&node);
        assert_eq!(only.direct.len(), 3);
        assert!(only.indirect.is_empty());
        assert!(NodeKind::from_name("table").is_err());
    }
}
