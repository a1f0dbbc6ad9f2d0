import { Link } from "wouter";
import { useEntities, useFeatureService, useFeatureViews, useLabelViews } from "../api";
import { keysOfProjection, Lookup, uniqueKeys, wantedOfService } from "../components/lookup";
import { Definition, Facts, Heading, Loaded, Panel, Tabs, tagsOrNothing, When } from "../components/parts";
import { ObjectLineage } from "../components/object-lineage";
import { useParam, useTitle } from "../hooks";
import { href, type PageProps } from "../routes";

export function FeatureServicePage({ project, name }: PageProps) {
  useTitle(name, "Feature services", project);
  const service = useFeatureService(project, name);
  const [tab] = useParam("tab");
  return (
    <Loaded of={service} title={name}>
      {(found) => {
        const { spec, meta } = found;
        const projections = spec.features ?? [];
        return (
          <>
            <Heading kind="Feature service" title={spec.name}>
              {spec.description && <p>{spec.description}</p>}
            </Heading>
            <Tabs
              base={href(project, "feature-service", spec.name)}
              chosen={tab || "overview"}
              tabs={[
                ["overview", "Overview"],
                ["lineage", "Lineage"],
                ["definition", "Definition"],
              ]}
            />
            {tab === "lineage" && (
              <ObjectLineage project={project} focus={{ type: "featureService", name: spec.name }} />
            )}
            {tab === "definition" && <Definition python={found.featureDefinition} object={found} />}
            {tab !== "lineage" && tab !== "definition" && (
              <div className="split">
                <Panel title="Features" note="Give the keys to see the vector a model would read" flush>
                  <ServiceLookup project={project} name={spec.name} projections={projections} />
                </Panel>
                <aside className="stack">
                  <Panel title="Facts">
                    <Facts
                      items={[
                        ["Owner", spec.owner],
                        ["Logging", spec.loggingConfig && `sample rate ${spec.loggingConfig.sampleRate ?? 0}`],
                        [
                          "Tags",
                          tagsOrNothing(spec.tags, (tag) => href(project, "feature-service", undefined, { tag })),
                        ],
                        ["Created", meta?.createdTimestamp && <When at={meta.createdTimestamp} />],
                        ["Updated", meta?.lastUpdatedTimestamp && <When at={meta.lastUpdatedTimestamp} />],
                      ]}
                    />
                  </Panel>
                  <Panel title="Reads">
                    <ul className="plain">
                      {projections.map((one) => (
                        <li key={one.featureViewNameAlias || one.featureViewName}>
                          <Link
                            href={href(
                              project,
                              one.viewType === "labelView" ? "label-view" : "feature-view",
                              one.featureViewName,
                            )}
                          >
                            {one.featureViewName}
                          </Link>{" "}
                          <span className="faint">
                            {one.featureColumns?.length ?? 0} features
                            {one.featureViewNameAlias && `, as ${one.featureViewNameAlias}`}
                            {Object.entries(one.joinKeyMap ?? {}).map(([from, to]) => `, ${from} from ${to}`)}
                          </span>
                        </li>
                      ))}
                    </ul>
                  </Panel>
                </aside>
              </div>
            )}
          </>
        );
      }}
    </Loaded>
  );
}

/** The lookup of a service, once the views it reads are known; the lookup page shows it too. */
export function ServiceLookup({
  project,
  name,
  projections,
}: {
  project: string;
  name: string;
  projections: Parameters<typeof wantedOfService>[0];
}) {
  const views = useFeatureViews(project);
  const labels = useLabelViews(project);
  const entities = useEntities(project);
  return (
    <Loaded of={entities}>
      {(known) => (
        <Loaded of={views}>
          {(all) => {
            const everything = [...all, ...(labels.data ?? [])];
            return (
              <Lookup
                project={project}
                target={{ featureService: name }}
                wanted={wantedOfService(projections, everything)}
                keys={uniqueKeys(projections.flatMap((one) => keysOfProjection(one, everything, known)))}
                showView
              />
            );
          }}
        </Loaded>
      )}
    </Loaded>
  );
}
