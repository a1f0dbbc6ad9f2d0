// A small layered layout for lineage: longest-path layers, barycentre order, straight routes for long edges.
// Pure: takes nodes and edges, gives positions.

export interface GraphNode {
  id: string;
  label: string;
}
export interface Placed extends GraphNode {
  x: number;
  y: number;
  width: number;
}
export interface Route {
  from: string;
  to: string;
  points: [number, number][];
}
export interface Layout<N> {
  nodes: (N & Placed)[];
  routes: Route[];
  width: number;
  height: number;
}

export const NODE_HEIGHT = 40;
const ROW = 52;
const BEND_ROW = 18;
const GAP = 52;
const MARGIN = 8;
const CHARACTER = 7.3;

interface Slot {
  id: string;
  layer: number;
  bend: boolean;
  y: number;
}

export function layout<N extends GraphNode>(nodes: N[], edges: [string, string][]): Layout<N> {
  const layers = assignLayers(nodes, edges);
  const slots = new Map<string, Slot>();
  for (const node of nodes) slots.set(node.id, { id: node.id, layer: layers.get(node.id) ?? 0, bend: false, y: 0 });
  const { chains, links } = bendLongEdges(edges, slots);
  const columns = order(slots, links);
  place(columns, links);

  const labels = new Map(nodes.map((node) => [node.id, node.label]));
  const widths = columns.map((column) => {
    const longest = Math.max(0, ...column.map((slot) => labels.get(slot.id)?.length ?? 0));
    return Math.min(280, Math.max(112, longest * CHARACTER + 26));
  });
  const lefts: number[] = [];
  let x = MARGIN;
  for (const width of widths) {
    lefts.push(x);
    x += width + GAP;
  }
  const placed = nodes.map((node) => {
    const slot = slots.get(node.id);
    const layer = slot?.layer ?? 0;
    return { ...node, x: lefts[layer] ?? 0, y: (slot?.y ?? 0) - NODE_HEIGHT / 2, width: widths[layer] ?? 0 };
  });
  const routes = chains.map((chain) => {
    const points: [number, number][] = [];
    chain.forEach((id, index) => {
      const slot = slots.get(id);
      if (!slot) return;
      const left = lefts[slot.layer] ?? 0;
      const right = left + (widths[slot.layer] ?? 0);
      if (index > 0) points.push([left, slot.y]);
      if (index < chain.length - 1) points.push([right, slot.y]);
    });
    return { from: chain[0] ?? "", to: chain.at(-1) ?? "", points };
  });
  const bottom = Math.max(0, ...[...slots.values()].map((slot) => slot.y));
  return { nodes: placed, routes, width: x - GAP + MARGIN, height: bottom + NODE_HEIGHT / 2 + MARGIN };
}

/** Longest path from the left, then every node without inputs is pulled next to its nearest reader. */
function assignLayers(nodes: GraphNode[], edges: [string, string][]): Map<string, number> {
  const waiting = new Map(nodes.map((node) => [node.id, 0]));
  for (const [, to] of edges) waiting.set(to, (waiting.get(to) ?? 0) + 1);
  const inputs = new Map(waiting);
  const readers = neighbours(edges, 0);
  const layers = new Map<string, number>();
  const ready = nodes.filter((node) => waiting.get(node.id) === 0).map((node) => node.id);
  for (const id of ready) {
    layers.set(id, layers.get(id) ?? 0);
    for (const to of readers.get(id) ?? []) {
      layers.set(to, Math.max(layers.get(to) ?? 0, (layers.get(id) ?? 0) + 1));
      const left = (waiting.get(to) ?? 0) - 1;
      waiting.set(to, left);
      if (left === 0) ready.push(to);
    }
  }
  for (const node of nodes) {
    if (inputs.get(node.id) !== 0) continue;
    const after = (readers.get(node.id) ?? []).map((to) => layers.get(to) ?? 0);
    if (after.length > 0) layers.set(node.id, Math.max(0, Math.min(...after) - 1));
  }
  return layers;
}

/** Edges over several layers get an invisible bend in each layer between, so that no node covers them. */
function bendLongEdges(edges: [string, string][], slots: Map<string, Slot>) {
  const chains: string[][] = [];
  const links: [string, string][] = [];
  for (const [from, to] of edges) {
    const start = slots.get(from);
    const end = slots.get(to);
    if (!start || !end || start.layer >= end.layer) continue;
    const chain = [from];
    for (let layer = start.layer + 1; layer < end.layer; layer++) {
      const id = `${from}→${to}#${layer}`;
      slots.set(id, { id, layer, bend: true, y: 0 });
      chain.push(id);
    }
    chain.push(to);
    chains.push(chain);
    for (let index = 1; index < chain.length; index++) links.push([chain[index - 1] ?? "", chain[index] ?? ""]);
  }
  return { chains, links };
}

function order(slots: Map<string, Slot>, links: [string, string][]): Slot[][] {
  const columns: Slot[][] = [];
  for (const slot of slots.values()) {
    while (columns.length <= slot.layer) columns.push([]);
    columns[slot.layer]?.push(slot);
  }
  const before = neighbours(links, 1);
  const after = neighbours(links, 0);
  for (let sweep = 0; sweep < 8; sweep++) {
    const rightwards = sweep % 2 === 0;
    const rank = new Map<string, number>();
    for (const column of columns) column.forEach((slot, index) => rank.set(slot.id, index));
    for (const column of rightwards ? columns : [...columns].reverse()) {
      const weight = new Map(
        column.map((slot, index) => {
          const near = (rightwards ? before : after).get(slot.id) ?? [];
          const mean = near.reduce((sum, id) => sum + (rank.get(id) ?? 0), 0) / near.length;
          return [slot.id, near.length > 0 ? mean : index];
        }),
      );
      column.sort((a, b) => (weight.get(a.id) ?? 0) - (weight.get(b.id) ?? 0));
      column.forEach((slot, index) => rank.set(slot.id, index));
    }
  }
  return columns;
}

function neighbours(links: [string, string][], end: 0 | 1): Map<string, string[]> {
  const found = new Map<string, string[]>();
  for (const link of links) {
    const near = found.get(link[end]);
    if (near) near.push(link[1 - end] ?? "");
    else found.set(link[end], [link[1 - end] ?? ""]);
  }
  return found;
}

/** Heights: stacked in order, then pulled towards the neighbours without changing the order. */
function place(columns: Slot[][], links: [string, string][]) {
  const all = new Map(columns.flat().map((slot) => [slot.id, slot]));
  const around = neighbours(links, 0);
  for (const [id, near] of neighbours(links, 1)) around.set(id, [...(around.get(id) ?? []), ...near]);
  const room = (slot: Slot) => (slot.bend ? BEND_ROW : ROW);
  for (const column of columns) {
    let y = 0;
    for (const slot of column) {
      slot.y = y + room(slot) / 2;
      y += room(slot);
    }
  }
  for (let pass = 0; pass < 6; pass++) {
    for (const column of pass % 2 === 0 ? columns : [...columns].reverse()) {
      for (const slot of column) {
        const near = (around.get(slot.id) ?? []).flatMap((id) => all.get(id)?.y ?? []);
        if (near.length > 0) slot.y = near.reduce((sum, y) => sum + y, 0) / near.length;
      }
      separate(column, room);
    }
  }
  const top = Math.min(...[...all.values()].map((slot) => slot.y - room(slot) / 2), 0);
  for (const slot of all.values()) slot.y -= top;
}

/** Pushes overlapping slots apart, half upwards and half downwards, keeping their order. */
function separate(column: Slot[], room: (slot: Slot) => number) {
  const wished = column.map((slot) => slot.y);
  let floor = Number.NEGATIVE_INFINITY;
  for (const slot of column) {
    slot.y = Math.max(slot.y, floor + room(slot) / 2);
    floor = slot.y + room(slot) / 2;
  }
  const drift =
    column.reduce((sum, slot, index) => sum + slot.y - (wished[index] ?? 0), 0) / Math.max(1, column.length);
  for (const slot of column) slot.y -= drift;
}
