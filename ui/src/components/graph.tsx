// Lineage as a drawing: boxes that are links, and the path through the one under the pointer or focus.
import { useEffect, useMemo, useRef, useState } from "react";
import { Link } from "wouter";
import type { Edge, FeatureView, NodeRef, NodeType, SavedDataset } from "../api";
import { featureHref, href } from "../routes";
import { layout, NODE_HEIGHT } from "./layout";
import { Empty } from "./parts";

const idOf = (node: NodeRef) => `${node.type}:${node.name}`;

const TYPE_LABELS: Record<NodeType, string> = {
  dataSource: "data source",
  entity: "entity",
  feature: "feature",
  featureView: "feature view",
  labelView: "label view",
  featureService: "feature service",
  savedDataset: "saved dataset",
};

/** Feast's edges leave out push and stream sources of plain views, and saved datasets; both are in the objects. */
export function completeEdges(edges: Edge[], views: FeatureView[], datasets: SavedDataset[]): Edge[] {
  const known = new Set(views.map((view) => view.spec.name));
  const all = [...edges];
  for (const { spec, type } of views) {
    const target: NodeRef = { type: type === "labelView" ? "labelView" : "featureView", name: spec.name };
    const stream = spec.streamSource ?? spec.source;
    if (stream) {
      all.push({ source: { type: "dataSource", name: stream.name }, target });
      const batch = stream.batchSource?.name;
      if (batch)
        all.push({ source: { type: "dataSource", name: batch }, target: { type: "dataSource", name: stream.name } });
    }
  }
  for (const { spec } of datasets) {
    const target: NodeRef = { type: "savedDataset", name: spec.name };
    if (spec.featureServiceName) {
      all.push({ source: { type: "featureService", name: spec.featureServiceName }, target });
      continue;
    }
    for (const view of new Set(
      (spec.features ?? []).map((reference) => reference.split(":")[0]?.split("@")[0] ?? ""),
    )) {
      if (known.has(view)) all.push({ source: { type: "featureView", name: view }, target });
    }
  }
  const unique = new Map(all.map((edge) => [`${idOf(edge.source)}>${idOf(edge.target)}`, edge]));
  return [...unique.values()].filter((edge) => edge.source.name !== "__dummy");
}

/** Everything `start` is made from and everything made from it. */
export function around(edges: Edge[], start: NodeRef): Edge[] {
  const walk = (from: "source" | "target", to: "source" | "target") => {
    const reached = new Set([idOf(start)]);
    const queue = [idOf(start)];
    const kept: Edge[] = [];
    const byEnd = Map.groupBy(edges, (edge) => idOf(edge[from]));
    for (const id of queue) {
      for (const edge of byEnd.get(id) ?? []) {
        kept.push(edge);
        const next = idOf(edge[to]);
        if (!reached.has(next)) {
          reached.add(next);
          queue.push(next);
        }
      }
    }
    return kept;
  };
  return [...new Set([...walk("target", "source"), ...walk("source", "target")])];
}

/** Features are only worth a box of their own around one view. */
export function withFeaturesOf(edges: Edge[], view?: string): Edge[] {
  return edges.filter((edge) => edge.source.type !== "feature" || (view !== undefined && edge.target.name === view));
}

export function Graph({ project, edges, focus }: { project: string; edges: Edge[]; focus?: NodeRef }) {
  const [active, setActive] = useState<string>();
  const drawn = useMemo(() => {
    const nodes = new Map<string, NodeRef>();
    if (focus) nodes.set(idOf(focus), focus);
    for (const edge of edges) {
      nodes.set(idOf(edge.source), edge.source);
      nodes.set(idOf(edge.target), edge.target);
    }
    const list = [...nodes].map(([id, ref]) => ({ id, ref, label: ref.name }));
    return layout(
      list,
      edges.map((edge) => [idOf(edge.source), idOf(edge.target)]),
    );
  }, [edges, focus?.type, focus?.name]);
  const lit = useMemo(() => {
    const node = drawn.nodes.find((one) => one.id === active);
    if (!node) return undefined;
    const near = around(edges, node.ref);
    return {
      edges: new Set(near.map((edge) => `${idOf(edge.source)}>${idOf(edge.target)}`)),
      nodes: new Set(near.flatMap((edge) => [idOf(edge.source), idOf(edge.target)])).add(node.id),
    };
  }, [active, drawn, edges]);

  const frame = useRef<HTMLDivElement>(null);
  useEffect(() => {
    const box = frame.current;
    const node = drawn.nodes.find((one) => focus && one.id === idOf(focus));
    if (!box || !node) return;
    const scale = box.scrollWidth / drawn.width;
    box.scrollLeft = (node.x + node.width / 2) * scale - box.clientWidth / 2;
  }, [drawn, focus?.type, focus?.name]);

  if (drawn.nodes.length === 0) {
    return (
      <Empty title="Nothing is connected yet">
        <p>Lineage appears when a feature view reads a data source or a feature service reads a view.</p>
      </Empty>
    );
  }
  return (
    <div className="graph" ref={frame} tabIndex={0} role="group" aria-label="Lineage graph, scrolls sideways">
      <svg
        width={drawn.width}
        height={drawn.height}
        viewBox={`0 0 ${drawn.width} ${drawn.height}`}
        // It may shrink to fit, but not until names cannot be read; beyond that it scrolls.
        style={{ minWidth: Math.round(drawn.width * SMALLEST) }}
      >
        <g className="edges">
          {drawn.routes.map((route) => {
            const id = `${route.from}>${route.to}`;
            return (
              <path key={id} d={curve(route.points)} className={lit ? (lit.edges.has(id) ? "on" : "off") : undefined} />
            );
          })}
        </g>
        {drawn.nodes.map((node) => (
          <Link
            key={node.id}
            href={hrefOf(project, node.ref, edges)}
            className={`node ${node.ref.type}${focus && idOf(focus) === node.id ? " focus" : ""}${lit && !lit.nodes.has(node.id) ? " off" : ""}`}
            onMouseEnter={() => setActive(node.id)}
            onMouseLeave={() => setActive(undefined)}
            onFocus={() => setActive(node.id)}
            onBlur={() => setActive(undefined)}
          >
            <title>{`${TYPE_LABELS[node.ref.type] ?? node.ref.type} ${node.ref.name}`}</title>
            <rect x={node.x} y={node.y} width={node.width} height={NODE_HEIGHT} rx={5} />
            <rect className="edge-mark" x={node.x} y={node.y + 6} width={3} height={NODE_HEIGHT - 12} />
            <text className="node-type" x={node.x + 12} y={node.y + 15}>
              {TYPE_LABELS[node.ref.type] ?? node.ref.type}
            </text>
            <text className="node-name" x={node.x + 12} y={node.y + 31}>
              {shorten(node.ref.name, node.width)}
            </text>
          </Link>
        ))}
      </svg>
    </div>
  );
}

const SMALLEST = 0.8;

function shorten(name: string, width: number): string {
  const room = Math.floor((width - 22) / 7.3);
  return name.length > room ? `${name.slice(0, room - 1)}…` : name;
}

function curve(points: [number, number][]): string {
  let path = "";
  points.forEach(([x, y], index) => {
    const last = points[index - 1];
    if (!last) path = `M${x} ${y}`;
    else if (last[1] === y) path += `L${x} ${y}`;
    else {
      const middle = (last[0] + x) / 2;
      path += `C${middle} ${last[1]} ${middle} ${y} ${x} ${y}`;
    }
  });
  return path;
}

function hrefOf(project: string, node: NodeRef, edges: Edge[]): string {
  switch (node.type) {
    case "dataSource":
      return href(project, "data-source", node.name);
    case "entity":
      return href(project, "entity", node.name);
    case "featureView":
      return href(project, "feature-view", node.name);
    case "labelView":
      return href(project, "label-view", node.name);
    case "featureService":
      return href(project, "feature-service", node.name);
    case "savedDataset":
      return href(project, "data-set", node.name);
    case "feature": {
      const view = edges.find((edge) => edge.source.type === "feature" && edge.source.name === node.name)?.target.name;
      return featureHref(project, view ?? "", node.name);
    }
  }
}
