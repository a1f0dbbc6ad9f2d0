import { Link } from "wouter";
import { type Schedule, useJobs, useSchedules } from "../api";
import { jobColumns, jobError, RunStrip, StateBadge } from "../components/jobs";
import { Badge, Empty, Heading, Loaded, Panel, When } from "../components/parts";
import { FilteredTable, Table } from "../components/table";
import { time } from "../format";
import { useTitle } from "../hooks";
import { href, type PageProps } from "../routes";

export function JobsPage({ project }: PageProps) {
  useTitle("Jobs", project);
  const jobs = useJobs(project);
  const running = jobs.data?.filter((job) => job.state === "running").length ?? 0;
  return (
    <>
      <Heading title="Jobs" badges={running > 0 && <Badge tone="busy">{running} running</Badge>} />
      <Schedules project={project} />
      <Loaded of={jobs}>
        {(rows) => (
          <FilteredTable
            noun="jobs"
            rows={rows}
            rowKey={(job) => job.id}
            text={(job) =>
              [job.featureView, job.state, job.trigger, job.kind, job.error, time(job.windowEnd)].join(" ")
            }
            facets={[
              { param: "state", label: "State", of: (job) => job.state },
              { param: "view", label: "Feature view", of: (job) => job.featureView },
              { param: "trigger", label: "Trigger", of: (job) => job.trigger },
            ]}
            empty={
              <Empty title="No run is on record">
                <p>
                  Materialization shows here whoever started it: a schedule,{" "}
                  <code>thali materialize-incremental END</code>, or an HTTP call.
                </p>
              </Empty>
            }
            columns={jobColumns(project)}
            detail={jobError}
          />
        )}
      </Loaded>
    </>
  );
}

function Schedules({ project }: { project: string }) {
  const schedules = useSchedules(project);
  const jobs = useJobs(project);
  return (
    <Panel title="Schedules" flush>
      <Loaded of={schedules}>
        {(rows) =>
          rows.length === 0 ? (
            <Empty title="Nothing runs by itself">
              <p>
                Give a feature view <code>schedule: "every 10m"</code> (or a cron expression) and run{" "}
                <code>thali serve</code> with the scheduler role.
              </p>
            </Empty>
          ) : (
            <Table
              label="Schedules"
              rows={rows}
              rowKey={(schedule) => schedule.featureView}
              columns={[
                {
                  label: "Feature view",
                  grow: true,
                  cell: (schedule: Schedule) => (
                    <Link className="mono name" href={href(project, "feature-view", schedule.featureView)}>
                      {schedule.featureView}
                    </Link>
                  ),
                },
                { label: "Schedule", cell: (schedule) => <code>{schedule.schedule}</code> },
                {
                  label: "Next run",
                  cell: (schedule) =>
                    schedule.problem ? <Badge tone="bad">cannot run</Badge> : <When at={schedule.nextRun} />,
                },
                {
                  label: "Last run",
                  cell: (schedule) =>
                    schedule.lastRun ? (
                      <StateBadge state={schedule.lastRun.state} />
                    ) : (
                      <span className="faint">none yet</span>
                    ),
                },
                {
                  label: "Last runs",
                  cell: (schedule) => (
                    <RunStrip jobs={(jobs.data ?? []).filter((job) => job.featureView === schedule.featureView)} />
                  ),
                },
              ]}
              detail={(schedule) => schedule.problem && <p className="job-error mono">{schedule.problem}</p>}
            />
          )
        }
      </Loaded>
    </Panel>
  );
}
