// The page of one view of any kind: facts, values, lineage, runs, definition.
import type { ReactNode } from "react";
import { Link } from "wouter";
import {
  type Edge,
  type FeatureView,
  type NodeRef,
  type UserFunction,
  useEntities,
  useFeatureServices,
  useFeatureViews,
  useJobs,
  useSchedules,
} from "../api";
import { duration, freshness, materializedUntil, protoSeconds, typeName, VIEW_KINDS } from "../format";
import { useNow, useParam } from "../hooks";
import { href } from "../routes";
import { jobColumns, jobError, RunStrip } from "./jobs";
import { keysOf, Lookup, uniqueKeys, wantedOf } from "./lookup";
import { ObjectLineage } from "./object-lineage";
import { Badge, Definition, Empty, Facts, Heading, Loaded, Moment, Panel, Tabs, tagsOrNothing, When } from "./parts";
import { Table } from "./table";

export function ViewDetail({ project, view }: { project: string; view: FeatureView }) {
  const { spec, type } = view;
  const [chosen] = useParam("tab");
  const section = type === "labelView" ? "label-view" : "feature-view";
  const base = href(project, section, spec.name);
  const materialized = type === "featureView" || type === "streamFeatureView";
  const tabs: [string, string][] = [
    ["overview", "Overview"],
    ["lineage", "Lineage"],
    ...(materialized ? [["jobs", "Jobs"] as [string, string]] : []),
    ["definition", "Definition"],
  ];
  const tab = tabs.some(([key]) => key === chosen) ? chosen : "overview";
  return (
    <>
      <Heading
        kind={`${VIEW_KINDS[type]} feature view`.replace("Label feature view", "Label view")}
        title={spec.name}
        badges={<Badges view={view} />}
      >
        {spec.description && <p>{spec.description}</p>}
      </Heading>
      <Tabs tabs={tabs} chosen={tab} base={base} />
      {tab === "overview" && <Overview project={project} view={view} />}
      {tab === "lineage" && <ViewLineage project={project} view={view} />}
      {tab === "jobs" && <ViewJobs project={project} view={view} />}
      {tab === "definition" && (
        <Definition python={view.featureDefinition} functions={functionsOf(view)} object={view} />
      )}
    </>
  );
}

/** States that only say what the other badges say: not tracked, and served. */
const PLAIN_STATES = new Set(["STATE_UNSPECIFIED", "AVAILABLE_ONLINE"]);

function Badges({ view }: { view: FeatureView }) {
  const now = useNow(30);
  const { spec, meta } = view;
  const state = freshness(view, now);
  return (
    <>
      {spec.disabled && <Badge tone="warn">disabled</Badge>}
      {spec.online && <Badge>online</Badge>}
      {spec.offline && <Badge>offline writes</Badge>}
      {state !== "not materialized" && (
        <Badge tone={state === "up to date" ? "ok" : state === "stale" ? "warn" : "quiet"}>{state}</Badge>
      )}
      {meta?.state && !PLAIN_STATES.has(meta.state) && <Badge>{meta.state.toLowerCase().replaceAll("_", " ")}</Badge>}
    </>
  );
}

function Overview({ project, view }: { project: string; view: FeatureView }) {
  const views = useFeatureViews(project);
  const entities = useEntities(project);
  const expressions = expressionsOf(view);
  return (
    <div className="split">
      <div className="stack">
        <Panel title="Features" note="Give an entity to see its online values" flush>
          <Loaded of={entities}>
            {(known) => (
              <Loaded of={views}>
                {(all) => (
                  <Lookup
                    project={project}
                    target={{ features: (view.spec.features ?? []).map((field) => `${view.spec.name}:${field.name}`) }}
                    wanted={wantedOf(view)}
                    keys={uniqueKeys(keysOf(view, all, known))}
                  />
                )}
              </Loaded>
            )}
          </Loaded>
        </Panel>
        {expressions.length > 0 && (
          <Panel title="Expressions" flush>
            <Table
              label="Expressions"
              rows={expressions}
              rowKey={([name]) => name}
              columns={[
                { label: "Feature", cell: ([name]) => <span className="mono">{name}</span> },
                { label: "SQL", grow: true, cell: ([, sql]) => <code>{sql}</code> },
              ]}
            />
          </Panel>
        )}
        {(view.spec.aggregations?.length ?? 0) > 0 && (
          <Panel title="Aggregations" flush>
            <Table
              label="Aggregations"
              rows={view.spec.aggregations ?? []}
              rowKey={(one) => `${one.function} ${one.column} ${one.timeWindow} ${one.name}`}
              columns={[
                { label: "Function", cell: (one) => <code>{`${one.function}(${one.column})`}</code> },
                { label: "Window", cell: (one) => (one.timeWindow ? duration(protoSeconds(one.timeWindow)) : "–") },
                {
                  label: "Slides by",
                  cell: (one) => (one.slideInterval ? duration(protoSeconds(one.slideInterval)) : "–"),
                },
              ]}
            />
          </Panel>
        )}
      </div>
      <aside className="stack">
        <Panel title="Facts">
          <ViewFacts project={project} view={view} />
        </Panel>
        <UsedBy project={project} view={view} />
      </aside>
    </div>
  );
}

function ViewFacts({ project, view }: { project: string; view: FeatureView }) {
  const { spec, meta, type } = view;
  const ttl = protoSeconds(spec.ttl);
  const source = (name?: string): ReactNode => name && <Link href={href(project, "data-source", name)}>{name}</Link>;
  const stream = spec.streamSource ?? spec.source;
  const inputs = Object.entries(spec.sources ?? {}).map(([key, one]) => {
    const from = one.featureViewProjection?.featureViewName;
    return (
      <span key={key} className="line">
        {from ? (
          <Link href={href(project, "feature-view", from)}>{from}</Link>
        ) : (
          <Link href={href(project, "data-source", one.requestDataSource?.name ?? key)}>
            {one.requestDataSource?.name ?? key}
          </Link>
        )}
      </span>
    );
  });
  const entities = (spec.entities ?? []).filter((name) => name !== "__dummy");
  const keys = (spec.entityColumns ?? []).filter((column) => !column.name.startsWith("__dummy"));
  return (
    <Facts
      items={[
        [
          "Entities",
          entities.length > 0 &&
            entities.map((name) => (
              <Link key={name} className="line" href={href(project, "entity", name)}>
                {name}
              </Link>
            )),
        ],
        [
          "Join keys",
          keys.length > 0 &&
            keys.map((key) => (
              <span key={key.name} className="line mono">
                {key.name} <span className="type">{typeName(key.valueType)}</span>
              </span>
            )),
        ],
        ["TTL", type === "onDemandFeatureView" ? undefined : ttl > 0 ? duration(ttl) : "never expires"],
        ["Batch source", source(spec.batchSource?.name)],
        [stream?.type === "PUSH_SOURCE" ? "Push source" : "Stream source", source(stream?.name)],
        ["Inputs", inputs.length > 0 && inputs],
        [
          "Materialized until",
          materializedUntil(view) && (
            <>
              <Moment at={materializedUntil(view)} />{" "}
              <span className="faint">
                UTC, <When at={materializedUntil(view)} />
              </span>
            </>
          ),
        ],
        ["Schedule", spec.tags?.["thali.schedule"] && <code>{spec.tags["thali.schedule"]}</code>],
        ["Labeler field", spec.labelerField],
        [
          "Reference view",
          spec.referenceFeatureView && (
            <Link href={href(project, "feature-view", spec.referenceFeatureView)}>{spec.referenceFeatureView}</Link>
          ),
        ],
        ["Mode", spec.mode],
        ["Owner", spec.owner],
        ["Version", meta?.currentVersionNumber !== undefined ? `v${meta.currentVersionNumber}` : spec.version],
        ["Tags", tagsOrNothing(spec.tags, (tag) => href(project, "feature-view", undefined, { tag }))],
        ["Created", meta?.createdTimestamp && <When at={meta.createdTimestamp} />],
        ["Updated", meta?.lastUpdatedTimestamp && <When at={meta.lastUpdatedTimestamp} />],
      ]}
    />
  );
}

function UsedBy({ project, view }: { project: string; view: FeatureView }) {
  const services = useFeatureServices(project);
  const views = useFeatureViews(project);
  const name = view.spec.name;
  const inServices = (services.data ?? []).filter(({ spec }) =>
    (spec.features ?? []).some((one) => one.featureViewName === name),
  );
  const inViews = (views.data ?? []).filter(({ spec }) =>
    Object.values(spec.sources ?? {}).some((one) => one.featureViewProjection?.featureViewName === name),
  );
  return (
    <Panel title="Used by">
      {inServices.length + inViews.length === 0 ? (
        <p className="faint">No feature service or on-demand view reads it.</p>
      ) : (
        <ul className="plain">
          {inServices.map(({ spec }) => (
            <li key={spec.name}>
              <Link href={href(project, "feature-service", spec.name)}>{spec.name}</Link>{" "}
              <span className="faint">feature service</span>
            </li>
          ))}
          {inViews.map(({ spec }) => (
            <li key={spec.name}>
              <Link href={href(project, "feature-view", spec.name)}>{spec.name}</Link>{" "}
              <span className="faint">on-demand view</span>
            </li>
          ))}
        </ul>
      )}
    </Panel>
  );
}

/** More features than this would only hide the rest of the picture. */
const MOST_FEATURES = 30;

function ViewLineage({ project, view }: { project: string; view: FeatureView }) {
  const focus: NodeRef = { type: view.type === "labelView" ? "labelView" : "featureView", name: view.spec.name };
  const fields = view.spec.features ?? [];
  const own = fields.map((field): Edge => ({ source: { type: "feature", name: field.name }, target: focus }));
  return <ObjectLineage project={project} focus={focus} extra={own.length <= MOST_FEATURES ? own : []} />;
}

function ViewJobs({ project, view }: { project: string; view: FeatureView }) {
  const jobs = useJobs(project, view.spec.name);
  const schedules = useSchedules(project);
  const schedule = schedules.data?.find((one) => one.featureView === view.spec.name);
  const intervals = [...(view.meta?.materializationIntervals ?? [])].reverse();
  return (
    <div className="stack">
      <Panel title="Schedule">
        {schedule ? (
          <Facts
            items={[
              ["When", <code key="when">{schedule.schedule}</code>],
              ["Next run", <When key="next" at={schedule.nextRun} />],
              ["Last runs", <RunStrip key="runs" jobs={jobs.data ?? []} />],
            ]}
          />
        ) : (
          <p className="faint">
            Nothing runs by itself. Add <code>schedule: "every 10m"</code> to the view, or tag it{" "}
            <code>thali.schedule</code>.
          </p>
        )}
      </Panel>
      <Panel title="Jobs" flush>
        <Loaded of={jobs}>
          {(rows) =>
            rows.length === 0 ? (
              <Empty title="No run is on record">
                <p>
                  Run <code>thali materialize-incremental END -v {view.spec.name}</code> or give the view a schedule.
                </p>
              </Empty>
            ) : (
              <Table
                rows={rows}
                columns={jobColumns(project, false)}
                rowKey={(job) => job.id}
                label="Jobs"
                detail={jobError}
              />
            )
          }
        </Loaded>
      </Panel>
      {intervals.length > 0 && (
        <Panel title="Materialized intervals" note="as recorded in the registry" flush>
          <Table
            label="Materialized intervals"
            rows={intervals}
            rowKey={(one) => `${one.startTime} ${one.endTime}`}
            columns={[
              { label: "From (UTC)", cell: (one) => <Moment at={one.startTime} /> },
              { label: "To (UTC)", cell: (one) => <Moment at={one.endTime} /> },
              {
                label: "Length",
                grow: true,
                cell: (one) => duration((Date.parse(one.endTime ?? "") - Date.parse(one.startTime ?? "")) / 1000),
              },
            ]}
          />
        </Panel>
      )}
    </div>
  );
}

/** The SQL expressions of a declarative on-demand view, which travel as a tag. */
function expressionsOf(view: FeatureView): [string, string][] {
  const text = view.spec.tags?.["thali.expressions"];
  if (!text) return [];
  try {
    return Object.entries(JSON.parse(text) as Record<string, string>);
  } catch {
    return [];
  }
}

function functionsOf({ spec }: FeatureView): UserFunction[] {
  const udf = spec.featureTransformation?.userDefinedFunction ?? spec.userDefinedFunction;
  return udf ? [udf] : [];
}
