import { Link } from "wouter";
import { useFeatures } from "../api";
import { Empty, Heading, Loaded, Tags } from "../components/parts";
import { FilteredTable } from "../components/table";
import { useTitle } from "../hooks";
import { featureHref, href, type PageProps } from "../routes";
import { tagWords } from "./feature-views";

export function FeaturesPage({ project }: PageProps) {
  useTitle("Features", project);
  const features = useFeatures(project);
  return (
    <>
      <Heading title="Features" />
      <Loaded of={features}>
        {(rows) => (
          <FilteredTable
            noun="features"
            rows={rows}
            rowKey={(feature) => `${feature.featureView}:${feature.name}`}
            text={(feature) =>
              [feature.name, feature.featureView, feature.type, feature.description, ...tagWords(feature.tags)].join(
                " ",
              )
            }
            facets={[
              { param: "view", label: "Feature view", of: (feature) => feature.featureView },
              { param: "type", label: "Type", of: (feature) => feature.type },
            ]}
            empty={
              <Empty title="No feature yet">
                <p>
                  Features are the columns of feature views. Define a view in a YAML file of the project and run{" "}
                  <code>thali -c DIR apply</code>.
                </p>
              </Empty>
            }
            columns={[
              {
                label: "Feature",
                order: (feature) => feature.name,
                cell: (feature) => (
                  <Link className="mono name" href={featureHref(project, feature.featureView, feature.name)}>
                    {feature.name}
                  </Link>
                ),
              },
              {
                label: "Feature view",
                order: (feature) => feature.featureView,
                cell: (feature) => (
                  <Link
                    className="mono"
                    href={href(project, feature.kind === "label" ? "label-view" : "feature-view", feature.featureView)}
                  >
                    {feature.featureView}
                  </Link>
                ),
              },
              {
                label: "Type",
                order: (feature) => feature.type,
                cell: (feature) => <span className="type">{feature.type}</span>,
              },
              {
                label: "Description",
                grow: true,
                cell: (feature) => (
                  <>
                    {feature.description || <span className="faint">–</span>} <Tags tags={feature.tags} />
                  </>
                ),
              },
            ]}
          />
        )}
      </Loaded>
    </>
  );
}
