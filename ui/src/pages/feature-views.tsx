import { Link } from "wouter";
import { type FeatureView, useFeatureViews } from "../api";
import { Badge, Empty, Heading, Loaded, Tags, When } from "../components/parts";
import { FilteredTable } from "../components/table";
import { duration, freshness, materializedUntil, protoSeconds, VIEW_KINDS } from "../format";
import { useNow, useTitle } from "../hooks";
import { href, type PageProps } from "../routes";
import { FreshnessBadge } from "./home";

export function FeatureViewsPage({ project }: PageProps) {
  useTitle("Feature views", project);
  const views = useFeatureViews(project);
  return (
    <>
      <Heading title="Feature views" />
      <Loaded of={views}>{(rows) => <FeatureViewTable project={project} rows={rows} />}</Loaded>
    </>
  );
}

function FeatureViewTable({ project, rows }: { project: string; rows: FeatureView[] }) {
  const now = useNow(30);
  return (
    <FilteredTable
      noun="feature views"
      rows={rows}
      rowKey={(view) => view.spec.name}
      text={({ spec, type }) =>
        [
          spec.name,
          spec.description,
          spec.owner,
          VIEW_KINDS[type],
          ...(spec.entities ?? []),
          ...(spec.features ?? []).map((f) => f.name),
          ...tagWords(spec.tags),
        ].join(" ")
      }
      facets={[
        { param: "kind", label: "Kind", of: (view) => VIEW_KINDS[view.type] },
        { param: "entity", label: "Entity", of: (view) => realEntities(view) },
        { param: "data", label: "Online data", of: (view) => freshness(view, now) },
      ]}
      empty={
        <Empty title="No feature view yet">
          <p>
            Add a <code>feature_views</code> entry to a YAML file of the project and run <code>thali -c DIR apply</code>
            ; views of a Python repository appear after <code>feast apply</code>.
          </p>
        </Empty>
      }
      columns={[
        {
          label: "Name",
          grow: true,
          order: (view) => view.spec.name,
          cell: (view) => (
            <>
              <Link className="mono name" href={href(project, "feature-view", view.spec.name)}>
                {view.spec.name}
              </Link>
              {view.spec.disabled && <Badge tone="warn">disabled</Badge>}
              {view.spec.description && <span className="sub">{view.spec.description}</span>}
            </>
          ),
        },
        { label: "Kind", order: (view) => VIEW_KINDS[view.type], cell: (view) => VIEW_KINDS[view.type] },
        {
          label: "Features",
          numeric: true,
          order: (view) => view.spec.features?.length ?? 0,
          cell: (view) => view.spec.features?.length ?? 0,
        },
        {
          label: "Entities",
          order: (view) => realEntities(view).join(),
          cell: (view) => realEntities(view).join(", ") || <span className="faint">–</span>,
        },
        {
          label: "TTL",
          order: (view) => protoSeconds(view.spec.ttl),
          cell: (view) =>
            protoSeconds(view.spec.ttl) > 0 ? (
              <span className="nowrap">{duration(protoSeconds(view.spec.ttl))}</span>
            ) : (
              <span className="faint">–</span>
            ),
        },
        {
          label: "Online data",
          order: (view) => materializedUntil(view) ?? "",
          cell: (view) => {
            const state = freshness(view, now);
            if (state === "not materialized")
              return <span className="faint">{view.type === "onDemandFeatureView" ? "computed" : "offline only"}</span>;
            return (
              <span className="nowrap">
                <FreshnessBadge state={state} /> {state !== "empty" && <When at={materializedUntil(view)} />}
              </span>
            );
          },
        },
        {
          label: "Tags",
          cell: (view) => (
            <Tags tags={view.spec.tags} link={(tag) => href(project, "feature-view", undefined, { tag })} />
          ),
        },
      ]}
    />
  );
}

function realEntities(view: FeatureView): string[] {
  return (view.spec.entities ?? []).filter((name) => name !== "__dummy");
}

export function tagWords(tags?: Record<string, string>): string[] {
  return Object.entries(tags ?? {}).map(([key, value]) => `${key}:${value}`);
}
