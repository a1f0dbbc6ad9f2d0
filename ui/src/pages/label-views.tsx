import { Link } from "wouter";
import { useLabelViews } from "../api";
import { Empty, Heading, Loaded, Tags } from "../components/parts";
import { FilteredTable } from "../components/table";
import { useTitle } from "../hooks";
import { href, type PageProps } from "../routes";
import { tagWords } from "./feature-views";

export function LabelViewsPage({ project }: PageProps) {
  useTitle("Label views", project);
  const views = useLabelViews(project);
  return (
    <>
      <Heading title="Label views" />
      <Loaded of={views}>
        {(rows) => (
          <FilteredTable
            noun="label views"
            rows={rows}
            rowKey={(view) => view.spec.name}
            text={({ spec }) =>
              [spec.name, spec.description, ...(spec.features ?? []).map((f) => f.name), ...tagWords(spec.tags)].join(
                " ",
              )
            }
            empty={
              <Empty title="No label view yet">
                <p>
                  Label views hold what people say about an entity. They come from a Python repository: define a{" "}
                  <code>LabelView</code> and run <code>feast apply</code> against this registry.
                </p>
              </Empty>
            }
            columns={[
              {
                label: "Name",
                grow: true,
                order: (view) => view.spec.name,
                cell: (view) => (
                  <>
                    <Link className="mono name" href={href(project, "label-view", view.spec.name)}>
                      {view.spec.name}
                    </Link>
                    {view.spec.description && <span className="sub">{view.spec.description}</span>}
                  </>
                ),
              },
              { label: "Labels", cell: (view) => (view.spec.features ?? []).map((field) => field.name).join(", ") },
              { label: "Entities", cell: (view) => (view.spec.entities ?? []).join(", ") },
              {
                label: "Conflicts",
                cell: (view) => (view.spec.conflictPolicy ?? "LAST_WRITE_WINS").toLowerCase().replaceAll("_", " "),
              },
              { label: "Tags", cell: (view) => <Tags tags={view.spec.tags} /> },
            ]}
          />
        )}
      </Loaded>
    </>
  );
}
