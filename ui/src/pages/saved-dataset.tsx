import { Link } from "wouter";
import { useSavedDataset } from "../api";
import { ObjectLineage } from "../components/object-lineage";
import { Definition, Facts, Heading, Loaded, Moment, Panel, tagsOrNothing, When } from "../components/parts";
import { options, plainText, words } from "../components/source";
import { Table } from "../components/table";
import { useTitle } from "../hooks";
import { featureHref, href, type PageProps } from "../routes";

export function SavedDatasetPage({ project, name }: PageProps) {
  useTitle(name, "Saved datasets", project);
  const dataset = useSavedDataset(project, name);
  return (
    <Loaded of={dataset} title={name}>
      {(found) => {
        const { spec, meta } = found;
        return (
          <>
            <Heading kind="Saved dataset" title={spec.name}>
              {spec.description && <p>{spec.description}</p>}
            </Heading>
            <div className="split">
              <div className="stack">
                <Panel title="Features" flush>
                  <Table
                    label="Features"
                    rows={spec.features ?? []}
                    rowKey={(reference) => reference}
                    columns={[
                      {
                        label: "Feature",
                        cell: (reference) => {
                          const [view = "", feature = ""] = reference.split(":");
                          return (
                            <Link className="mono name" href={featureHref(project, view.split("@")[0] ?? "", feature)}>
                              {reference}
                            </Link>
                          );
                        },
                      },
                    ]}
                  />
                </Panel>
                <Panel title="Where it is">
                  <Facts
                    items={options({ ...spec.storage }).map(([key, value]) => [
                      words(key),
                      <span key={key} className="mono break">
                        {plainText(value)}
                      </span>,
                    ])}
                  />
                </Panel>
                <ObjectLineage project={project} focus={{ type: "savedDataset", name: spec.name }} />
                <Definition python={found.featureDefinition} object={found} />
              </div>
              <aside>
                <Panel title="Facts">
                  <Facts
                    items={[
                      [
                        "Join keys",
                        <span key="keys" className="mono">
                          {(spec.joinKeys ?? []).join(", ")}
                        </span>,
                      ],
                      [
                        "Feature service",
                        spec.featureServiceName && (
                          <Link href={href(project, "feature-service", spec.featureServiceName)}>
                            {spec.featureServiceName}
                          </Link>
                        ),
                      ],
                      ["Full names", spec.fullFeatureNames ? "yes" : "no"],
                      ["Oldest event (UTC)", meta?.minEventTimestamp && <Moment at={meta.minEventTimestamp} />],
                      ["Newest event (UTC)", meta?.maxEventTimestamp && <Moment at={meta.maxEventTimestamp} />],
                      ["Namespace", spec.namespace],
                      ["Collection", spec.collection],
                      ["Tags", tagsOrNothing(spec.tags, (tag) => href(project, "data-set", undefined, { tag }))],
                      ["Created", meta?.createdTimestamp && <When at={meta.createdTimestamp} />],
                    ]}
                  />
                </Panel>
              </aside>
            </div>
          </>
        );
      }}
    </Loaded>
  );
}
