import { Link } from "wouter";
import { useDataSources } from "../api";
import { location } from "../components/source";
import { Empty, Heading, Loaded, Tags } from "../components/parts";
import { FilteredTable } from "../components/table";
import { sourceKind } from "../format";
import { useTitle } from "../hooks";
import { href, type PageProps } from "../routes";
import { tagWords } from "./feature-views";

export function DataSourcesPage({ project }: PageProps) {
  useTitle("Data sources", project);
  const sources = useDataSources(project);
  return (
    <>
      <Heading title="Data sources" />
      <Loaded of={sources}>
        {(rows) => (
          <FilteredTable
            noun="data sources"
            rows={rows}
            rowKey={(source) => source.name}
            text={(source) =>
              [
                source.name,
                source.description,
                source.owner,
                sourceKind(source),
                location(source),
                ...tagWords(source.tags),
              ].join(" ")
            }
            facets={[{ param: "kind", label: "Kind", of: sourceKind }]}
            empty={
              <Empty title="No data source yet">
                <p>
                  Point a <code>data_sources</code> entry at a Parquet or CSV file in a YAML file of the project and run{" "}
                  <code>thali -c DIR apply</code>.
                </p>
              </Empty>
            }
            columns={[
              {
                label: "Name",
                order: (source) => source.name,
                cell: (source) => (
                  <>
                    <Link className="mono name" href={href(project, "data-source", source.name)}>
                      {source.name}
                    </Link>
                    {source.description && <span className="sub">{source.description}</span>}
                  </>
                ),
              },
              { label: "Kind", order: sourceKind, cell: sourceKind },
              {
                label: "Reads",
                grow: true,
                order: location,
                cell: (source) => <span className="mono break">{location(source) || "–"}</span>,
              },
              {
                label: "Event time",
                cell: (source) =>
                  source.timestampField ? (
                    <span className="mono">{source.timestampField}</span>
                  ) : (
                    <span className="faint">–</span>
                  ),
              },
              {
                label: "Tags",
                cell: (source) => (
                  <Tags tags={source.tags} link={(tag) => href(project, "data-source", undefined, { tag })} />
                ),
              },
            ]}
          />
        )}
      </Loaded>
    </>
  );
}
