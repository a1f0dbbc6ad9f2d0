import { Link } from "wouter";
import { type Feature, useEntities, useFeature, useFeatureServices, useFeatureViews, useLabelViews } from "../api";
import { keysOf, Lookup, uniqueKeys, wantedOf } from "../components/lookup";
import { Definition, Facts, Heading, Loaded, Panel, tagsOrNothing } from "../components/parts";
import { useTitle } from "../hooks";
import { href, type PageProps } from "../routes";

export function FeaturePage({ project, view, name }: PageProps) {
  useTitle(name, view, project);
  const feature = useFeature(project, view, name);
  return (
    <Loaded of={feature} title={name}>
      {(found) => (
        <>
          <Heading kind={`Feature of ${view}`} title={name}>
            {found.description && <p>{found.description}</p>}
          </Heading>
          <div className="split">
            <div className="stack">
              <Panel title="Online value" flush>
                <FeatureLookup project={project} feature={found} view={view} />
              </Panel>
              <Definition object={found} />
            </div>
            <aside className="stack">
              <Panel title="Facts">
                <Facts
                  items={[
                    [
                      "Type",
                      <span key="type" className="type">
                        {found.type}
                      </span>,
                    ],
                    [
                      "Feature view",
                      <Link
                        key="view"
                        href={href(project, found.kind === "label" ? "label-view" : "feature-view", view)}
                      >
                        {view}
                      </Link>,
                    ],
                    ["Reference", <code key="reference">{`${view}:${name}`}</code>],
                    ["Tags", tagsOrNothing(found.tags)],
                  ]}
                />
              </Panel>
              <Services project={project} view={view} name={name} />
            </aside>
          </div>
        </>
      )}
    </Loaded>
  );
}

function FeatureLookup({ project, feature, view }: { project: string; feature: Feature; view: string }) {
  const views = useFeatureViews(project);
  const labels = useLabelViews(project);
  const entities = useEntities(project);
  return (
    <Loaded of={entities}>
      {(known) => (
        <Loaded of={views}>
          {(all) => {
            const everything = [...all, ...(labels.data ?? [])];
            const home = everything.find((one) => one.spec.name === view);
            return (
              <Lookup
                project={project}
                target={{ features: [`${view}:${feature.name}`] }}
                wanted={home ? wantedOf(home).filter((one) => one.field.name === feature.name) : []}
                keys={home ? uniqueKeys(keysOf(home, everything, known)) : []}
              />
            );
          }}
        </Loaded>
      )}
    </Loaded>
  );
}

function Services({ project, view, name }: { project: string; view: string; name: string }) {
  const services = useFeatureServices(project);
  const using = (services.data ?? []).filter(({ spec }) =>
    (spec.features ?? []).some(
      (one) => one.featureViewName === view && one.featureColumns?.some((column) => column.name === name),
    ),
  );
  return (
    <Panel title="Feature services">
      {using.length === 0 ? (
        <p className="faint">No feature service reads it.</p>
      ) : (
        <ul className="plain">
          {using.map(({ spec }) => (
            <li key={spec.name}>
              <Link href={href(project, "feature-service", spec.name)}>{spec.name}</Link>
            </li>
          ))}
        </ul>
      )}
    </Panel>
  );
}
