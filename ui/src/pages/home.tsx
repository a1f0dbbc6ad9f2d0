import { Link } from "wouter";
import {
  type Counts,
  type FeatureView,
  type Job,
  type Schedule,
  useBootstrap,
  useFeatureViews,
  useJobs,
  useProject,
  useSchedules,
} from "../api";
import { RunStrip, StateBadge } from "../components/jobs";
import { Badge, Empty, ErrorBox, Heading, Loaded, Panel, Tags, When } from "../components/parts";
import { Table } from "../components/table";
import { count, duration, type Freshness, freshness, materializedUntil, protoSeconds } from "../format";
import { useNow, useTitle } from "../hooks";
import { href, type Kind, type PageProps } from "../routes";

const TILES: [keyof Counts, string, Kind][] = [
  ["featureViews", "Feature views", "feature-view"],
  ["features", "Features", "features"],
  ["featureServices", "Feature services", "feature-service"],
  ["entities", "Entities", "entity"],
  ["dataSources", "Data sources", "data-source"],
  ["savedDatasets", "Saved datasets", "data-set"],
];

export function HomePage({ project }: PageProps) {
  useTitle(project);
  const bootstrap = useBootstrap();
  const details = useProject(project);
  const counts = bootstrap.data?.projects.find((one) => one.name === project)?.counts;
  return (
    <>
      <Heading kind="Project" title={project}>
        {details.data && (
          <>
            <p>{details.data.spec.description}</p>
            <p className="meta-line">
              {details.data.spec.owner && <span>Owner {details.data.spec.owner}</span>}{" "}
              <Tags tags={details.data.spec.tags} />
            </p>
          </>
        )}
      </Heading>
      {bootstrap.error && <ErrorBox error={bootstrap.error} />}
      {bootstrap.data && !counts && (
        <Empty title={`The registry has no project ${project}`}>
          <p>
            <Link href="/">Choose another project</Link>, or create this one with <code>thali -c DIR apply</code>.
          </p>
        </Empty>
      )}
      {counts && (
        <>
          <ul className="tiles">
            {TILES.map(([key, label, kind]) => (
              <li key={key}>
                <Link href={href(project, kind)}>
                  <b>{count(counts[key])}</b>
                  <span>{label}</span>
                </Link>
              </li>
            ))}
          </ul>
          <Online project={project} />
        </>
      )}
    </>
  );
}

interface Row {
  view: FeatureView;
  state: Freshness;
  jobs: Job[];
  schedule?: Schedule;
}

function Online({ project }: { project: string }) {
  const views = useFeatureViews(project);
  const jobs = useJobs(project);
  const schedules = useSchedules(project);
  const now = useNow(30);
  return (
    <Loaded of={views}>
      {(all) => {
        const rows = all
          .map((view): Row => ({
            view,
            state: freshness(view, now),
            jobs: (jobs.data ?? []).filter((job) => job.featureView === view.spec.name),
            schedule: schedules.data?.find((one) => one.featureView === view.spec.name),
          }))
          .filter((row) => row.state !== "not materialized" || row.jobs.length > 0);
        return (
          <>
            <Attention project={project} rows={rows} />
            {(jobs.error ?? schedules.error) && <ErrorBox error={(jobs.error ?? schedules.error) as Error} />}
            <Panel title="Materialized views" flush actions={<Link href={href(project, "jobs")}>All jobs</Link>}>
              {rows.length === 0 ? (
                <Empty title="No view is served online">
                  <p>
                    Set <code>online: true</code> on a feature view, apply, and run{" "}
                    <code>thali materialize-incremental END</code>.
                  </p>
                </Empty>
              ) : (
                <Table
                  rows={rows}
                  columns={COLUMNS(project)}
                  rowKey={(row) => row.view.spec.name}
                  label="Materialized views"
                />
              )}
            </Panel>
          </>
        );
      }}
    </Loaded>
  );
}

const COLUMNS = (project: string) => [
  {
    label: "Feature view",
    grow: true,
    order: (row: Row) => row.view.spec.name,
    cell: (row: Row) => (
      <Link className="mono name" href={href(project, "feature-view", row.view.spec.name)}>
        {row.view.spec.name}
      </Link>
    ),
  },
  { label: "Online data", order: (row: Row) => row.state, cell: (row: Row) => <FreshnessBadge state={row.state} /> },
  {
    label: "Materialized until",
    order: (row: Row) => materializedUntil(row.view) ?? "",
    cell: (row: Row) => <When at={materializedUntil(row.view)} />,
  },
  {
    label: "TTL",
    order: (row: Row) => protoSeconds(row.view.spec.ttl),
    cell: (row: Row) =>
      protoSeconds(row.view.spec.ttl) > 0 ? duration(protoSeconds(row.view.spec.ttl)) : "never expires",
  },
  { label: "Last runs", cell: (row: Row) => <RunStrip jobs={row.jobs} /> },
  {
    label: "Newest run",
    cell: (row: Row) => (row.jobs[0] ? <StateBadge state={row.jobs[0].state} /> : <span className="faint">–</span>),
  },
  {
    label: "Next run",
    cell: (row: Row) =>
      row.schedule ? <When at={row.schedule.nextRun} /> : <span className="faint">no schedule</span>,
  },
];

export function FreshnessBadge({ state }: { state: Freshness }) {
  const tone = state === "up to date" ? "ok" : state === "stale" ? "warn" : "quiet";
  return <Badge tone={tone}>{state}</Badge>;
}

function Attention({ project, rows }: { project: string; rows: Row[] }) {
  const notes = rows.flatMap((row) => {
    const name = row.view.spec.name;
    const last = row.jobs.find((job) => job.state !== "running");
    const link = <Link href={href(project, "feature-view", name)}>{name}</Link>;
    if (last?.state === "failed") {
      return [
        <li key={`${name} failed`}>
          <Badge tone="bad">failed</Badge> The last run of {link} failed: {last.error}
        </li>,
      ];
    }
    if (row.state === "stale") {
      return [
        <li key={`${name} stale`}>
          <Badge tone="warn">stale</Badge> Everything {link} has online is older than its TTL of{" "}
          {duration(protoSeconds(row.view.spec.ttl))}; its newest data ended <When at={materializedUntil(row.view)} />.
        </li>,
      ];
    }
    if (row.state === "empty" && row.jobs.length === 0) {
      return [
        <li key={`${name} empty`}>
          <Badge tone="quiet">empty</Badge> {link} was never materialized. Run{" "}
          <code>thali materialize-incremental END -v {name}</code>.
        </li>,
      ];
    }
    return [];
  });
  if (notes.length === 0) return null;
  return (
    <Panel title="Needs attention" note={`${notes.length}`}>
      <ul className="attention">{notes}</ul>
    </Panel>
  );
}
