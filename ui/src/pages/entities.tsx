import { Link } from "wouter";
import { useEntities } from "../api";
import { Empty, Heading, Loaded, Tags, When } from "../components/parts";
import { FilteredTable } from "../components/table";
import { typeName } from "../format";
import { useTitle } from "../hooks";
import { href, type PageProps } from "../routes";
import { tagWords } from "./feature-views";

export function EntitiesPage({ project }: PageProps) {
  useTitle("Entities", project);
  const entities = useEntities(project);
  return (
    <>
      <Heading title="Entities" />
      <Loaded of={entities}>
        {(rows) => (
          <FilteredTable
            noun="entities"
            rows={rows}
            rowKey={(entity) => entity.spec.name}
            text={({ spec }) =>
              [spec.name, spec.joinKey, spec.description, spec.owner, ...tagWords(spec.tags)].join(" ")
            }
            empty={
              <Empty title="No entity yet">
                <p>
                  An entity is what features are about, such as an airport. Add an <code>entities</code> entry to a YAML
                  file of the project and run <code>thali -c DIR apply</code>.
                </p>
              </Empty>
            }
            columns={[
              {
                label: "Name",
                grow: true,
                order: (entity) => entity.spec.name,
                cell: (entity) => (
                  <>
                    <Link className="mono name" href={href(project, "entity", entity.spec.name)}>
                      {entity.spec.name}
                    </Link>
                    {entity.spec.description && <span className="sub">{entity.spec.description}</span>}
                  </>
                ),
              },
              {
                label: "Join key",
                order: (entity) => entity.spec.joinKey ?? "",
                cell: (entity) => <span className="mono">{entity.spec.joinKey}</span>,
              },
              {
                label: "Type",
                order: (entity) => typeName(entity.spec.valueType),
                cell: (entity) => <span className="type">{typeName(entity.spec.valueType)}</span>,
              },
              { label: "Owner", cell: (entity) => entity.spec.owner || <span className="faint">–</span> },
              {
                label: "Updated",
                order: (entity) => entity.meta?.lastUpdatedTimestamp ?? "",
                cell: (entity) => <When at={entity.meta?.lastUpdatedTimestamp} />,
              },
              {
                label: "Tags",
                cell: (entity) => (
                  <Tags tags={entity.spec.tags} link={(tag) => href(project, "entity", undefined, { tag })} />
                ),
              },
            ]}
          />
        )}
      </Loaded>
    </>
  );
}
