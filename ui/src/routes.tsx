// Every page once. The router and the navigation are both derived from this list.
import type { ComponentType } from "react";
import type { Counts } from "./api";
import { DataSourcePage } from "./pages/data-source";
import { DataSourcesPage } from "./pages/data-sources";
import { EntitiesPage } from "./pages/entities";
import { EntityPage } from "./pages/entity";
import { FeaturePage } from "./pages/feature";
import { FeatureServicePage } from "./pages/feature-service";
import { FeatureServicesPage } from "./pages/feature-services";
import { FeatureViewPage } from "./pages/feature-view";
import { FeatureViewsPage } from "./pages/feature-views";
import { FeaturesPage } from "./pages/features";
import { HomePage } from "./pages/home";
import { JobsPage } from "./pages/jobs";
import { LabelViewPage } from "./pages/label-view";
import { LabelViewsPage } from "./pages/label-views";
import { LineagePage } from "./pages/lineage";
import { LookupPage } from "./pages/lookup";
import { PermissionPage } from "./pages/permission";
import { PermissionsPage } from "./pages/permissions";
import { ProjectsPage } from "./pages/projects";
import { SavedDatasetPage } from "./pages/saved-dataset";
import { SavedDatasetsPage } from "./pages/saved-datasets";

export interface NavEntry {
  group: "" | "Registry" | "Operate";
  label: string;
  count?: keyof Counts;
}
/** What a page gets: the decoded parameters of its path; `project` is set on every path below `/p/`. */
export interface PageProps {
  project: string;
  name: string;
  view: string;
}
export interface Route {
  path: string;
  page: ComponentType<PageProps>;
  nav?: NavEntry;
}

export const ROUTES: Route[] = [
  { path: "/", page: ProjectsPage },
  { path: "/p/:project", page: HomePage, nav: { group: "", label: "Overview" } },
  {
    path: "/p/:project/feature-view",
    page: FeatureViewsPage,
    nav: { group: "Registry", label: "Feature views", count: "featureViews" },
  },
  { path: "/p/:project/feature-view/:view/feature/:name", page: FeaturePage },
  { path: "/p/:project/feature-view/:name", page: FeatureViewPage },
  {
    path: "/p/:project/features",
    page: FeaturesPage,
    nav: { group: "Registry", label: "Features", count: "features" },
  },
  {
    path: "/p/:project/feature-service",
    page: FeatureServicesPage,
    nav: { group: "Registry", label: "Feature services", count: "featureServices" },
  },
  { path: "/p/:project/feature-service/:name", page: FeatureServicePage },
  { path: "/p/:project/entity", page: EntitiesPage, nav: { group: "Registry", label: "Entities", count: "entities" } },
  { path: "/p/:project/entity/:name", page: EntityPage },
  {
    path: "/p/:project/data-source",
    page: DataSourcesPage,
    nav: { group: "Registry", label: "Data sources", count: "dataSources" },
  },
  { path: "/p/:project/data-source/:name", page: DataSourcePage },
  {
    path: "/p/:project/data-set",
    page: SavedDatasetsPage,
    nav: { group: "Registry", label: "Saved datasets", count: "savedDatasets" },
  },
  { path: "/p/:project/data-set/:name", page: SavedDatasetPage },
  { path: "/p/:project/label-view", page: LabelViewsPage, nav: { group: "Registry", label: "Label views" } },
  { path: "/p/:project/label-view/:name", page: LabelViewPage },
  { path: "/p/:project/permissions", page: PermissionsPage, nav: { group: "Registry", label: "Permissions" } },
  { path: "/p/:project/permissions/:name", page: PermissionPage },
  { path: "/p/:project/lookup", page: LookupPage, nav: { group: "Operate", label: "Lookup" } },
  { path: "/p/:project/jobs", page: JobsPage, nav: { group: "Operate", label: "Jobs" } },
  { path: "/p/:project/lineage", page: LineagePage, nav: { group: "Operate", label: "Lineage" } },
];

/** Where an object of a kind lives. */
export type Kind =
  | "feature-view"
  | "feature-service"
  | "entity"
  | "data-source"
  | "data-set"
  | "label-view"
  | "permissions"
  | "features"
  | "jobs"
  | "lookup"
  | "lineage";

export function href(project: string, kind?: Kind, name?: string, query?: Record<string, string>): string {
  const path = ["", "p", project, ...(kind ? [kind] : []), ...(name !== undefined ? [name] : [])]
    .map(encodeURIComponent)
    .join("/");
  return query ? `${path}?${new URLSearchParams(query)}` : path;
}

export function featureHref(project: string, view: string, name: string): string {
  return `${href(project, "feature-view", view)}/feature/${encodeURIComponent(name)}`;
}
