import { usePermission } from "../api";
import { Definition, Facts, Heading, Loaded, Panel, tagsOrNothing, When } from "../components/parts";
import { useTitle } from "../hooks";
import type { PageProps } from "../routes";
import { lower, who } from "./permissions";

export function PermissionPage({ project, name }: PageProps) {
  useTitle(name, "Permissions", project);
  const permission = usePermission(project, name);
  return (
    <Loaded of={permission} title={name}>
      {(found) => {
        const { spec, meta } = found;
        return (
          <>
            <Heading kind="Permission" title={spec.name} />
            <div className="stack">
              <Panel title="What it allows">
                <Facts
                  items={[
                    ["Who", who(found)],
                    ["May", (spec.actions ?? []).map(lower).join(", ")],
                    ["On", (spec.types ?? []).map(lower).join(", ")],
                    [
                      "Named like",
                      <span key="names" className="mono">
                        {(spec.namePatterns ?? []).join(", ") || "any name"}
                      </span>,
                    ],
                    ["Only with tags", tagsOrNothing(spec.requiredTags)],
                    ["Tags", tagsOrNothing(spec.tags)],
                    ["Created", meta?.createdTimestamp && <When at={meta.createdTimestamp} />],
                    ["Updated", meta?.lastUpdatedTimestamp && <When at={meta.lastUpdatedTimestamp} />],
                  ]}
                />
              </Panel>
              <Definition object={found} />
            </div>
          </>
        );
      }}
    </Loaded>
  );
}
