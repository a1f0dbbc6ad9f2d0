import { Link } from "wouter";
import { type Permission, usePermissions } from "../api";
import { Empty, Heading, Loaded, Tags } from "../components/parts";
import { FilteredTable } from "../components/table";
import { useTitle } from "../hooks";
import { href, type PageProps } from "../routes";
import { tagWords } from "./feature-views";

export function PermissionsPage({ project }: PageProps) {
  useTitle("Permissions", project);
  const permissions = usePermissions(project);
  return (
    <>
      <Heading title="Permissions" />
      <Loaded of={permissions}>
        {(rows) => (
          <FilteredTable
            noun="permissions"
            rows={rows}
            rowKey={(permission) => permission.spec.name}
            text={({ spec }) =>
              [
                spec.name,
                ...(spec.types ?? []),
                ...(spec.actions ?? []),
                ...(spec.namePatterns ?? []),
                ...tagWords(spec.tags),
              ].join(" ")
            }
            facets={[
              { param: "action", label: "Action", of: (permission) => (permission.spec.actions ?? []).map(lower) },
              { param: "on", label: "Object kind", of: (permission) => (permission.spec.types ?? []).map(lower) },
            ]}
            empty={
              <Empty title="No permission yet">
                <p>
                  Without permissions everybody who can reach the servers may do everything. Add a{" "}
                  <code>permissions</code> entry to a YAML file of the project and run <code>thali -c DIR apply</code>.
                </p>
              </Empty>
            }
            columns={[
              {
                label: "Name",
                order: (permission) => permission.spec.name,
                cell: (permission) => (
                  <Link className="mono name" href={href(project, "permissions", permission.spec.name)}>
                    {permission.spec.name}
                  </Link>
                ),
              },
              { label: "Who", grow: true, cell: (permission) => who(permission) },
              { label: "May", cell: (permission) => (permission.spec.actions ?? []).map(lower).join(", ") },
              { label: "On", cell: (permission) => (permission.spec.types ?? []).map(lower).join(", ") },
              {
                label: "Named",
                cell: (permission) => (
                  <span className="mono">{(permission.spec.namePatterns ?? []).join(", ") || "any"}</span>
                ),
              },
              { label: "Tags", cell: (permission) => <Tags tags={permission.spec.tags} /> },
            ]}
          />
        )}
      </Loaded>
    </>
  );
}

export const lower = (name: string) => name.toLowerCase().replaceAll("_", " ");

/** The policy in words. */
export function who({ spec }: Permission): string {
  const {
    roleBasedPolicy: role,
    groupBasedPolicy: group,
    namespaceBasedPolicy: space,
    combinedGroupNamespacePolicy: both,
  } = spec.policy ?? {};
  if (role) return `roles ${(role.roles ?? []).join(", ")}`;
  if (group) return `groups ${(group.groups ?? []).join(", ")}`;
  if (space) return `namespaces ${(space.namespaces ?? []).join(", ")}`;
  if (both) return `groups ${(both.groups ?? []).join(", ")} in namespaces ${(both.namespaces ?? []).join(", ")}`;
  return "nobody (no policy)";
}
