import { Link } from "wouter";
import { type FeatureService, useFeatureServices } from "../api";
import { Empty, Heading, Loaded, Tags, When } from "../components/parts";
import { FilteredTable } from "../components/table";
import { useTitle } from "../hooks";
import { href, type PageProps } from "../routes";
import { tagWords } from "./feature-views";

export function FeatureServicesPage({ project }: PageProps) {
  useTitle("Feature services", project);
  const services = useFeatureServices(project);
  return (
    <>
      <Heading title="Feature services" />
      <Loaded of={services}>
        {(rows) => (
          <FilteredTable
            noun="feature services"
            rows={rows}
            rowKey={(service) => service.spec.name}
            text={({ spec }) =>
              [
                spec.name,
                spec.description,
                spec.owner,
                ...(spec.features ?? []).map((one) => one.featureViewName),
                ...tagWords(spec.tags),
              ].join(" ")
            }
            facets={[
              {
                param: "view",
                label: "Feature view",
                of: (service) => (service.spec.features ?? []).map((one) => one.featureViewName),
              },
            ]}
            empty={
              <Empty title="No feature service yet">
                <p>
                  A feature service names the features one model reads. Add a <code>feature_services</code> entry to a
                  YAML file of the project and run <code>thali -c DIR apply</code>.
                </p>
              </Empty>
            }
            columns={[
              {
                label: "Name",
                grow: true,
                order: (service) => service.spec.name,
                cell: (service) => (
                  <>
                    <Link className="mono name" href={href(project, "feature-service", service.spec.name)}>
                      {service.spec.name}
                    </Link>
                    {service.spec.description && <span className="sub">{service.spec.description}</span>}
                  </>
                ),
              },
              {
                label: "Views",
                cell: (service) => (service.spec.features ?? []).map((one) => one.featureViewName).join(", "),
              },
              { label: "Features", numeric: true, order: featureCount, cell: featureCount },
              {
                label: "Owner",
                order: (service) => service.spec.owner ?? "",
                cell: (service) => service.spec.owner || <span className="faint">–</span>,
              },
              {
                label: "Updated",
                order: (service) => service.meta?.lastUpdatedTimestamp ?? "",
                cell: (service) => <When at={service.meta?.lastUpdatedTimestamp} />,
              },
              {
                label: "Tags",
                cell: (service) => (
                  <Tags tags={service.spec.tags} link={(tag) => href(project, "feature-service", undefined, { tag })} />
                ),
              },
            ]}
          />
        )}
      </Loaded>
    </>
  );
}

function featureCount(service: FeatureService): number {
  return (service.spec.features ?? []).reduce((sum, one) => sum + (one.featureColumns?.length ?? 0), 0);
}
