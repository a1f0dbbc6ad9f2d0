// Runs of materialization, as the scheduler's ledger tells them.
import { Link } from "wouter";
import type { Job, JobState } from "../api";
import { count, duration, time } from "../format";
import { useNow } from "../hooks";
import { href } from "../routes";
import { Badge, type Tone, When } from "./parts";
import type { Column } from "./table";

const TONES: Record<JobState, Tone> = { running: "busy", succeeded: "ok", failed: "bad", cancelled: "quiet" };

export function StateBadge({ state }: { state: JobState }) {
  return <Badge tone={TONES[state] ?? "plain"}>{state}</Badge>;
}

function seconds(job: Job, now: number): number {
  return ((job.endedAt ? Date.parse(job.endedAt) : now) - Date.parse(job.startedAt)) / 1000;
}

function Took({ job }: { job: Job }) {
  const now = useNow(1);
  return <span className="nowrap">{duration(Math.max(0, seconds(job, now)))}</span>;
}

function Rate({ job }: { job: Job }) {
  const now = useNow(1);
  const took = seconds(job, now);
  if (!job.rowsWritten || took <= 0) return <span className="faint">–</span>;
  return <>{count(Math.round(job.rowsWritten / took))}</>;
}

export function jobColumns(project: string, withView = true): Column<Job>[] {
  const columns: Column<Job>[] = [
    { label: "State", order: (job) => job.state, cell: (job) => <StateBadge state={job.state} /> },
  ];
  if (withView) {
    columns.push({
      label: "Feature view",
      order: (job) => job.featureView,
      grow: true,
      cell: (job) => (
        <Link className="mono name" href={href(project, "feature-view", job.featureView)}>
          {job.featureView}
        </Link>
      ),
    });
  }
  columns.push(
    {
      label: "Window (UTC)",
      order: (job) => job.windowEnd ?? "",
      cell: (job) => (
        <span className="mono window">
          <span className="nowrap">{time(job.windowStart)}</span> <span aria-label="to">→</span>{" "}
          <span className="nowrap">{untilOf(job)}</span>
        </span>
      ),
    },
    { label: "Trigger", order: (job) => job.trigger, cell: (job) => <span title={job.kind}>{job.trigger}</span> },
    { label: "Started", order: (job) => Date.parse(job.startedAt), cell: (job) => <When at={job.startedAt} /> },
    { label: "Took", order: (job) => seconds(job, Date.now()), numeric: true, cell: (job) => <Took job={job} /> },
    {
      label: "Rows read",
      order: (job) => job.rowsRead,
      numeric: true,
      cell: (job) => (
        <span title={job.rowsResumed ? `${count(job.rowsResumed)} more were stored by a run before` : undefined}>
          {count(job.rowsRead)}
        </span>
      ),
    },
    { label: "Written", order: (job) => job.rowsWritten, numeric: true, cell: (job) => count(job.rowsWritten) },
    { label: "Chunks", order: (job) => job.chunks, numeric: true, cell: (job) => count(job.chunks) },
    { label: "Rows/s", numeric: true, cell: (job) => <Rate job={job} /> },
  );
  return columns;
}

export function jobError(job: Job) {
  return job.error ? <p className="job-error mono">{job.error}</p> : null;
}

/** The end of a window; its day only when that is another one. */
function untilOf(job: Job): string {
  const end = time(job.windowEnd);
  return end.slice(0, 10) === time(job.windowStart).slice(0, 10) ? end.slice(11) : end;
}

const STRIP = 24;

/** The newest runs of a view, oldest to the left: one cell each. */
export function RunStrip({ jobs }: { jobs: Job[] }) {
  const newest = jobs.slice(0, STRIP).reverse();
  if (newest.length === 0) return <span className="faint">no runs</span>;
  const failed = newest.filter((job) => job.state === "failed").length;
  return (
    <span
      className="strip"
      role="img"
      aria-label={`last ${newest.length} runs, ${failed} failed, newest ${newest.at(-1)?.state}`}
    >
      {newest.map((job) => (
        <span
          key={job.id}
          className={`cell ${TONES[job.state] ?? "plain"}`}
          title={`${job.state}, started ${time(job.startedAt)} UTC`}
        />
      ))}
    </span>
  );
}
