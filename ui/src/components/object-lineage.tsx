// Lineage around one object, any number of steps away.
import { Link } from "wouter";
import { type Edge, type NodeRef, useFeatureViews, useLabelViews, useLineage, useSavedDatasets } from "../api";
import { href } from "../routes";
import { around, completeEdges, Graph, withFeaturesOf } from "./graph";
import { Loaded, Panel } from "./parts";

export function useCompleteLineage(project: string) {
  const lineage = useLineage(project);
  const views = useFeatureViews(project);
  const labels = useLabelViews(project);
  const datasets = useSavedDatasets(project);
  const complete = (edges: Edge[]) =>
    completeEdges(edges, [...(views.data ?? []), ...(labels.data ?? [])], datasets.data ?? []);
  return { lineage, complete };
}

export function ObjectLineage({ project, focus, extra = [] }: { project: string; focus: NodeRef; extra?: Edge[] }) {
  const { lineage, complete } = useCompleteLineage(project);
  return (
    <Panel
      title="Lineage"
      note="Everything this is made from, and everything made from it"
      actions={<Link href={href(project, "lineage", undefined, { focus: `${focus.type}:${focus.name}` })}>Open</Link>}
    >
      <Loaded of={lineage}>
        {(edges) => (
          <Graph
            project={project}
            edges={[...withFeaturesOf(around(complete(edges), focus)), ...extra]}
            focus={focus}
          />
        )}
      </Loaded>
    </Panel>
  );
}
