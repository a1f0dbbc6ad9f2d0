import { Link } from "wouter";
import { useSavedDatasets } from "../api";
import { Empty, Heading, Loaded, Moment, Tags, When } from "../components/parts";
import { options, place } from "../components/source";
import { FilteredTable } from "../components/table";
import { useTitle } from "../hooks";
import { href, type PageProps } from "../routes";
import { tagWords } from "./feature-views";

export function SavedDatasetsPage({ project }: PageProps) {
  useTitle("Saved datasets", project);
  const datasets = useSavedDatasets(project);
  return (
    <>
      <Heading title="Saved datasets" />
      <Loaded of={datasets}>
        {(rows) => (
          <FilteredTable
            noun="saved datasets"
            rows={rows}
            rowKey={(dataset) => dataset.spec.name}
            text={({ spec }) =>
              [
                spec.name,
                spec.featureServiceName,
                ...(spec.features ?? []),
                ...(spec.joinKeys ?? []),
                ...tagWords(spec.tags),
              ].join(" ")
            }
            empty={
              <Empty title="No saved dataset yet">
                <p>
                  Keep a training set with <code>store.create_saved_dataset(…)</code> of the Python SDK, or name an
                  existing file under <code>saved_datasets</code> in a YAML file of the project.
                </p>
              </Empty>
            }
            columns={[
              {
                label: "Name",
                order: (dataset) => dataset.spec.name,
                cell: (dataset) => (
                  <Link className="mono name" href={href(project, "data-set", dataset.spec.name)}>
                    {dataset.spec.name}
                  </Link>
                ),
              },
              {
                label: "Stored at",
                grow: true,
                cell: (dataset) => <span className="mono break">{place(options({ ...dataset.spec.storage }))}</span>,
              },
              {
                label: "Features",
                numeric: true,
                order: (dataset) => dataset.spec.features?.length ?? 0,
                cell: (dataset) => dataset.spec.features?.length ?? 0,
              },
              {
                label: "Newest event (UTC)",
                order: (dataset) => dataset.meta?.maxEventTimestamp ?? "",
                cell: (dataset) => <Moment at={dataset.meta?.maxEventTimestamp} />,
              },
              {
                label: "Created",
                order: (dataset) => dataset.meta?.createdTimestamp ?? "",
                cell: (dataset) => <When at={dataset.meta?.createdTimestamp} />,
              },
              {
                label: "Tags",
                cell: (dataset) => (
                  <Tags tags={dataset.spec.tags} link={(tag) => href(project, "data-set", undefined, { tag })} />
                ),
              },
            ]}
          />
        )}
      </Loaded>
    </>
  );
}
