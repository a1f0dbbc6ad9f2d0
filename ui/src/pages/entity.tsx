import { Link } from "wouter";
import { useEntity, useFeatureViews, useLabelViews } from "../api";
import { ObjectLineage } from "../components/object-lineage";
import { Definition, Empty, Facts, Heading, Loaded, Panel, tagsOrNothing, When } from "../components/parts";
import { Table } from "../components/table";
import { typeName, VIEW_KINDS } from "../format";
import { useTitle } from "../hooks";
import { href, type PageProps } from "../routes";

export function EntityPage({ project, name }: PageProps) {
  useTitle(name, "Entities", project);
  const entity = useEntity(project, name);
  return (
    <Loaded of={entity} title={name}>
      {(found) => {
        const { spec, meta } = found;
        return (
          <>
            <Heading kind="Entity" title={spec.name}>
              {spec.description && <p>{spec.description}</p>}
            </Heading>
            <div className="split">
              <div className="stack">
                <Views project={project} entity={name} />
                <ObjectLineage project={project} focus={{ type: "entity", name }} />
                <Definition python={found.featureDefinition} object={found} />
              </div>
              <aside>
                <Panel title="Facts">
                  <Facts
                    items={[
                      [
                        "Join key",
                        <span key="key" className="mono">
                          {spec.joinKey}
                        </span>,
                      ],
                      [
                        "Type",
                        <span key="type" className="type">
                          {typeName(spec.valueType)}
                        </span>,
                      ],
                      [
                        "Data sources",
                        (found.dataSources?.length ?? 0) > 0 &&
                          found.dataSources?.map((source) => (
                            <Link key={source.name} className="line" href={href(project, "data-source", source.name)}>
                              {source.name}
                            </Link>
                          )),
                      ],
                      ["Owner", spec.owner],
                      ["Tags", tagsOrNothing(spec.tags, (tag) => href(project, "entity", undefined, { tag }))],
                      ["Created", meta?.createdTimestamp && <When at={meta.createdTimestamp} />],
                      ["Updated", meta?.lastUpdatedTimestamp && <When at={meta.lastUpdatedTimestamp} />],
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

function Views({ project, entity }: { project: string; entity: string }) {
  const views = useFeatureViews(project);
  const labels = useLabelViews(project);
  return (
    <Panel title="Views about it" flush>
      <Loaded of={views}>
        {(all) => {
          const rows = [...all, ...(labels.data ?? [])].filter((view) => view.spec.entities?.includes(entity));
          if (rows.length === 0) {
            return (
              <Empty title="No feature view uses this entity">
                <p>
                  Name it under <code>entities</code> of a feature view.
                </p>
              </Empty>
            );
          }
          return (
            <Table
              label="Views about it"
              rows={rows}
              rowKey={(view) => view.spec.name}
              columns={[
                {
                  label: "Feature view",
                  order: (view) => view.spec.name,
                  cell: (view) => (
                    <Link
                      className="mono name"
                      href={href(project, view.type === "labelView" ? "label-view" : "feature-view", view.spec.name)}
                    >
                      {view.spec.name}
                    </Link>
                  ),
                },
                { label: "Kind", cell: (view) => VIEW_KINDS[view.type] },
                {
                  label: "Features",
                  grow: true,
                  cell: (view) => (view.spec.features ?? []).map((field) => field.name).join(", "),
                },
              ]}
            />
          );
        }}
      </Loaded>
    </Panel>
  );
}
