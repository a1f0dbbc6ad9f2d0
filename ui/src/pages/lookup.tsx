import { useEntities, useFeatureServices, useFeatureViews } from "../api";
import { keysOf, Lookup, uniqueKeys, wantedOf } from "../components/lookup";
import { Empty, Heading, Loaded, Panel } from "../components/parts";
import { useParam, useTitle } from "../hooks";
import type { PageProps } from "../routes";
import { ServiceLookup } from "./feature-service";

export function LookupPage({ project }: PageProps) {
  useTitle("Lookup", project);
  const services = useFeatureServices(project);
  const views = useFeatureViews(project);
  const entities = useEntities(project);
  const [chosen, setChosen] = useParam("of");
  return (
    <>
      <Heading title="Lookup">
        <p>What the online store holds for an entity right now, beside the time the data is from.</p>
      </Heading>
      <Loaded of={services}>
        {(knownServices) => (
          <Loaded of={views}>
            {(knownViews) => (
              <Loaded of={entities}>
                {(knownEntities) => {
                  const served = knownViews.filter((view) => view.type === "onDemandFeatureView" || view.spec.online);
                  const options = [
                    ...knownServices.map(({ spec }) => `service:${spec.name}`),
                    ...served.map(({ spec }) => `view:${spec.name}`),
                  ];
                  const target = options.includes(chosen) ? chosen : (options[0] ?? "");
                  if (!target) {
                    return (
                      <Empty title="Nothing is served online yet">
                        <p>
                          Set <code>online: true</code> on a feature view and run <code>thali -c DIR apply</code>.
                        </p>
                      </Empty>
                    );
                  }
                  const name = target.slice(target.indexOf(":") + 1);
                  const service = target.startsWith("service:")
                    ? knownServices.find(({ spec }) => spec.name === name)
                    : undefined;
                  const view = service ? undefined : served.find(({ spec }) => spec.name === name);
                  return (
                    <Panel
                      flush
                      title="Features"
                      actions={
                        <Chooser
                          value={target}
                          services={knownServices.map((s) => s.spec.name)}
                          views={served.map((v) => v.spec.name)}
                          choose={setChosen}
                        />
                      }
                    >
                      {service && (
                        <ServiceLookup
                          key={target}
                          project={project}
                          name={name}
                          projections={service.spec.features ?? []}
                        />
                      )}
                      {view && (
                        <Lookup
                          key={target}
                          project={project}
                          target={{ features: (view.spec.features ?? []).map((field) => `${name}:${field.name}`) }}
                          wanted={wantedOf(view)}
                          keys={uniqueKeys(keysOf(view, knownViews, knownEntities))}
                        />
                      )}
                    </Panel>
                  );
                }}
              </Loaded>
            )}
          </Loaded>
        )}
      </Loaded>
    </>
  );
}

function Chooser({
  value,
  services,
  views,
  choose,
}: {
  value: string;
  services: string[];
  views: string[];
  choose: (value: string) => void;
}) {
  return (
    <select aria-label="Feature service or view" value={value} onChange={(event) => choose(event.target.value)}>
      <optgroup label="Feature services">
        {services.map((name) => (
          <option key={name} value={`service:${name}`}>
            {name}
          </option>
        ))}
      </optgroup>
      <optgroup label="Feature views">
        {views.map((name) => (
          <option key={name} value={`view:${name}`}>
            {name}
          </option>
        ))}
      </optgroup>
    </select>
  );
}
