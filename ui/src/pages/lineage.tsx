import { type Edge, type NodeRef, type NodeType } from "../api";
import { useCompleteLineage } from "../components/object-lineage";
import { around, Graph, withFeaturesOf } from "../components/graph";
import { Empty, Heading, Loaded, Panel } from "../components/parts";
import { useParam, useTitle } from "../hooks";
import type { PageProps } from "../routes";

/** A drawing of more objects than this is a carpet: one has to be chosen first. */
const MOST = 150;

export function LineagePage({ project }: PageProps) {
  useTitle("Lineage", project);
  const { lineage, complete } = useCompleteLineage(project);
  const [focus, setFocus] = useParam("focus");
  return (
    <>
      <Heading title="Lineage">
        <p>What is made from what: sources and entities to the left, what models read to the right.</p>
      </Heading>
      <Loaded of={lineage}>
        {(edges) => {
          const all = withFeaturesOf(complete(edges));
          const nodes = objects(all);
          const chosen = parse(focus);
          const shown = chosen ? around(all, chosen) : all;
          return (
            <Panel
              title={chosen ? `Around ${chosen.name}` : "Whole project"}
              actions={
                <select aria-label="Focus on" value={focus} onChange={(event) => setFocus(event.target.value)}>
                  <option value="">Whole project</option>
                  {nodes.map((node) => (
                    <option key={`${node.type}:${node.name}`} value={`${node.type}:${node.name}`}>
                      {node.name} ({WORDS[node.type]})
                    </option>
                  ))}
                </select>
              }
            >
              {!chosen && nodes.length > MOST ? (
                <Empty title={`${nodes.length} objects are too many for one drawing`}>
                  <p>Choose one above to see what it is made from and what is made from it.</p>
                </Empty>
              ) : (
                <Graph project={project} edges={shown} focus={chosen} />
              )}
            </Panel>
          );
        }}
      </Loaded>
    </>
  );
}

const WORDS: Record<NodeType, string> = {
  dataSource: "data source",
  entity: "entity",
  feature: "feature",
  featureView: "feature view",
  labelView: "label view",
  featureService: "feature service",
  savedDataset: "saved dataset",
};

function objects(edges: Edge[]): NodeRef[] {
  const found = new Map(
    edges.flatMap(({ source, target }) => [source, target]).map((node) => [`${node.type}:${node.name}`, node]),
  );
  return [...found.values()].sort((a, b) => a.name.localeCompare(b.name, "en"));
}

function parse(text: string): NodeRef | undefined {
  const at = text.indexOf(":");
  const type = text.slice(0, at);
  return at > 0 && type in WORDS ? { type: type as NodeType, name: text.slice(at + 1) } : undefined;
}
