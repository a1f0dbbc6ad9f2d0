import { Link } from "wouter";
import { type DataSource, type FeatureView, useDataSource, useFeatureViews, useLabelViews } from "../api";
import { ObjectLineage } from "../components/object-lineage";
import { Definition, Facts, Heading, Loaded, Panel, tagsOrNothing, When } from "../components/parts";
import { options, plainText, words } from "../components/source";
import { Table } from "../components/table";
import { sourceKind, typeName } from "../format";
import { useTitle } from "../hooks";
import { href, type PageProps } from "../routes";

export function DataSourcePage({ project, name }: PageProps) {
  useTitle(name, "Data sources", project);
  const source = useDataSource(project, name);
  return (
    <Loaded of={source} title={name}>
      {(found) => (
        <>
          <Heading kind={`${sourceKind(found)} source`} title={found.name}>
            {found.description && <p>{found.description}</p>}
          </Heading>
          <div className="split">
            <div className="stack">
              <Settings source={found} />
              <Schema source={found} />
              <Mapping source={found} />
              <ObjectLineage project={project} focus={{ type: "dataSource", name: found.name }} />
              <Definition python={found.featureDefinition} object={found} />
            </div>
            <aside className="stack">
              <Panel title="Facts">
                <Facts
                  items={[
                    ["Event time", found.timestampField && <span className="mono">{found.timestampField}</span>],
                    [
                      "Created column",
                      found.createdTimestampColumn && <span className="mono">{found.createdTimestampColumn}</span>,
                    ],
                    ["Date partition", found.datePartitionColumn],
                    [
                      "Batch source",
                      found.batchSource && (
                        <Link href={href(project, "data-source", found.batchSource.name)}>
                          {found.batchSource.name}
                        </Link>
                      ),
                    ],
                    ["Owner", found.owner],
                    ["Tags", tagsOrNothing(found.tags, (tag) => href(project, "data-source", undefined, { tag }))],
                    ["Created", found.meta?.createdTimestamp && <When at={found.meta.createdTimestamp} />],
                    ["Updated", found.meta?.lastUpdatedTimestamp && <When at={found.meta.lastUpdatedTimestamp} />],
                  ]}
                />
              </Panel>
              <Readers project={project} name={found.name} />
            </aside>
          </div>
        </>
      )}
    </Loaded>
  );
}

function Settings({ source }: { source: DataSource }) {
  const settings = options(source).filter(([key]) => key !== "schema");
  if (settings.length === 0) return null;
  return (
    <Panel title="Where it is">
      <Facts
        items={settings.map(([key, value]) => [
          words(key),
          <span key={key} className="mono break">
            {plainText(value)}
          </span>,
        ])}
      />
    </Panel>
  );
}

function Schema({ source }: { source: DataSource }) {
  const fields = source.requestDataOptions?.schema ?? [];
  if (fields.length === 0) return null;
  return (
    <Panel title="Given with each request" flush>
      <Table
        label="Request schema"
        rows={fields}
        rowKey={(field) => field.name}
        columns={[
          { label: "Field", cell: (field) => <span className="mono">{field.name}</span> },
          {
            label: "Type",
            grow: true,
            cell: (field) => <span className="type">{typeName(field.valueType, field.tags)}</span>,
          },
        ]}
      />
    </Panel>
  );
}

function Mapping({ source }: { source: DataSource }) {
  const rows = Object.entries(source.fieldMapping ?? {});
  if (rows.length === 0) return null;
  return (
    <Panel title="Renamed columns" flush>
      <Table
        label="Renamed columns"
        rows={rows}
        rowKey={([column]) => column}
        columns={[
          { label: "Column", cell: ([column]) => <span className="mono">{column}</span> },
          { label: "Feature name", grow: true, cell: ([, field]) => <span className="mono">{field}</span> },
        ]}
      />
    </Panel>
  );
}

function reads({ spec }: FeatureView, name: string): boolean {
  const direct = [
    spec.batchSource,
    spec.streamSource,
    spec.source,
    spec.streamSource?.batchSource,
    spec.source?.batchSource,
  ];
  const requests = Object.values(spec.sources ?? {}).map((one) => one.requestDataSource);
  return [...direct, ...requests].some((source) => source?.name === name);
}

function Readers({ project, name }: { project: string; name: string }) {
  const views = useFeatureViews(project);
  const labels = useLabelViews(project);
  const readers = [...(views.data ?? []), ...(labels.data ?? [])].filter((view) => reads(view, name));
  return (
    <Panel title="Read by">
      {readers.length === 0 ? (
        <p className="faint">No view reads it.</p>
      ) : (
        <ul className="plain">
          {readers.map((view) => (
            <li key={view.spec.name}>
              <Link href={href(project, view.type === "labelView" ? "label-view" : "feature-view", view.spec.name)}>
                {view.spec.name}
              </Link>
            </li>
          ))}
        </ul>
      )}
    </Panel>
  );
}
