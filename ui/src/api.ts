// The only file that talks to the server, and the home of every type it answers with. Feast's REST answers are
// protobuf JSON: names in camelCase, defaults left out, 64-bit integers and durations as strings.
import { type UseQueryResult, useQuery } from "@tanstack/react-query";

export type Tags = Record<string, string>;
export interface Meta {
  createdTimestamp?: string;
  lastUpdatedTimestamp?: string;
}
export interface Field {
  name: string;
  valueType?: string;
  description?: string;
  tags?: Tags;
  vectorIndex?: boolean;
  vectorLength?: number;
  vectorSearchMetric?: string;
}
interface Described {
  description?: string;
  tags?: Tags;
  owner?: string;
}
export interface DataSource extends Described {
  name: string;
  type?: string;
  timestampField?: string;
  createdTimestampColumn?: string;
  datePartitionColumn?: string;
  fieldMapping?: Record<string, string>;
  dataSourceClassType?: string;
  batchSource?: DataSource;
  requestDataOptions?: { schema?: Field[] };
  meta?: Meta;
  featureDefinition?: string;
  [options: string]: unknown;
}
export interface Entity {
  spec: Described & { name: string; joinKey?: string; valueType?: string };
  meta?: Meta;
  dataSources?: DataSource[];
  featureDefinition?: string;
}
export interface Projection {
  featureViewName: string;
  featureViewNameAlias?: string;
  featureColumns?: Field[];
  joinKeyMap?: Record<string, string>;
  versionTag?: number;
  viewType?: string;
}
export interface UserFunction {
  name?: string;
  bodyText?: string;
  mode?: string;
}
export interface Aggregation {
  column?: string;
  function?: string;
  timeWindow?: string;
  slideInterval?: string;
  name?: string;
}
export type ViewKind = "featureView" | "onDemandFeatureView" | "streamFeatureView" | "labelView";
export interface FeatureView {
  type: ViewKind;
  spec: Described & {
    name: string;
    entities?: string[];
    features?: Field[];
    entityColumns?: Field[];
    ttl?: string;
    online?: boolean;
    offline?: boolean;
    disabled?: boolean;
    batchSource?: DataSource;
    streamSource?: DataSource;
    source?: DataSource;
    sources?: Record<
      string,
      { featureViewProjection?: Projection; requestDataSource?: DataSource; featureView?: FeatureView }
    >;
    featureTransformation?: { userDefinedFunction?: UserFunction; substraitTransformation?: { ibisFunction?: string } };
    userDefinedFunction?: UserFunction;
    aggregations?: Aggregation[];
    mode?: string;
    version?: string;
    labelerField?: string;
    conflictPolicy?: string;
    referenceFeatureView?: string;
  };
  meta?: Meta & {
    materializationIntervals?: { startTime?: string; endTime?: string }[];
    state?: string;
    currentVersionNumber?: number;
  };
  featureDefinition?: string;
}
export interface Feature {
  name: string;
  featureView: string;
  type: string;
  description?: string;
  tags?: Tags;
  kind?: string;
  featureDefinition?: string;
}
export interface FeatureService {
  spec: Described & { name: string; features?: Projection[]; loggingConfig?: { sampleRate?: number } };
  meta?: Meta;
  featureDefinition?: string;
}
export interface SavedDataset {
  spec: {
    name: string;
    features?: string[];
    joinKeys?: string[];
    fullFeatureNames?: boolean;
    storage?: Record<string, unknown>;
    featureServiceName?: string;
    dataSources?: string[];
    description?: string;
    namespace?: string;
    collection?: string;
    tags?: Tags;
  };
  meta?: Meta & { minEventTimestamp?: string; maxEventTimestamp?: string };
  featureDefinition?: string;
}
export interface Permission {
  spec: {
    name: string;
    types?: string[];
    namePatterns?: string[];
    actions?: string[];
    requiredTags?: Tags;
    tags?: Tags;
    policy?: {
      roleBasedPolicy?: { roles?: string[] };
      groupBasedPolicy?: { groups?: string[] };
      namespaceBasedPolicy?: { namespaces?: string[] };
      combinedGroupNamespacePolicy?: { groups?: string[]; namespaces?: string[] };
    };
  };
  meta?: Meta;
}
export interface ProjectObject {
  spec: Described & { name: string };
  meta?: Meta;
}
export type NodeType =
  "dataSource" | "entity" | "feature" | "featureView" | "labelView" | "featureService" | "savedDataset";
export interface NodeRef {
  type: NodeType;
  name: string;
}
export interface Edge {
  source: NodeRef;
  target: NodeRef;
}
export interface Counts {
  entities: number;
  dataSources: number;
  featureViews: number;
  features: number;
  featureServices: number;
  savedDatasets: number;
}
export interface Bootstrap {
  version: string;
  roles: string[];
  projects: { name: string; description?: string; counts: Counts }[];
}
export type JobState = "running" | "succeeded" | "failed" | "cancelled";
export interface Job {
  id: string;
  project: string;
  featureView: string;
  kind: string;
  trigger: string;
  state: JobState;
  windowStart: string | null;
  windowEnd: string | null;
  startedAt: string;
  endedAt: string | null;
  rowsRead: number;
  rowsWritten: number;
  /** Rows that an earlier run, which did not finish, had stored. */
  rowsResumed: number;
  chunks: number;
  error: string | null;
}
export interface Schedule {
  featureView: string;
  schedule: string;
  nextRun: string | null;
  lastRun: Job | null;
  /** Why the schedule cannot be followed. */
  problem?: string | null;
}
/** A value as Feast's feature server writes it. */
export type Value = null | boolean | number | string | Value[] | { [key: string]: Value };
interface OnlineResponse {
  metadata: { feature_names: string[] };
  results: { values: Value[]; statuses?: string[]; event_timestamps?: string[] }[];
}

export class ApiError extends Error {
  constructor(
    readonly status: number,
    message: string,
  ) {
    super(message);
  }
}

/** The sentence in an error answer: ours and FastAPI's `detail`, or the `message` of Feast's error envelope. */
function messageOf(body: unknown): string | undefined {
  if (typeof body === "string") {
    try {
      return messageOf(JSON.parse(body)) ?? body;
    } catch {
      return body || undefined;
    }
  }
  if (Array.isArray(body)) return body.map((item) => messageOf(item) ?? JSON.stringify(item)).join("; ");
  if (body !== null && typeof body === "object") {
    const { detail, message, msg, error } = body as Record<string, unknown>;
    for (const candidate of [detail, message, msg, error]) {
      if (candidate !== undefined && candidate !== null) return messageOf(candidate);
    }
  }
  return undefined;
}

async function request<T>(path: string, init?: RequestInit): Promise<T> {
  let response: Response;
  try {
    response = await fetch(path, { ...init, headers: { accept: "application/json", ...init?.headers } });
  } catch {
    throw new ApiError(0, "the server cannot be reached; is `thali serve` running?");
  }
  const text = await response.text();
  if (!response.ok) throw new ApiError(response.status, messageOf(text) ?? `the server answered ${response.status}`);
  try {
    const body = JSON.parse(text) as T;
    // Feast answers some failures about projects with status 200.
    const error = (body as { error?: unknown } | null)?.error;
    if (typeof error === "string") throw new ApiError(500, error);
    return body;
  } catch (error) {
    if (error instanceof ApiError) throw error;
    throw new ApiError(response.status, `the answer of ${path} is not JSON`);
  }
}

function url(path: string, params: Record<string, string | number | undefined> = {}): string {
  const query = new URLSearchParams();
  for (const [key, value] of Object.entries(params))
    if (value !== undefined && value !== "") query.set(key, String(value));
  const text = query.toString();
  return text ? `${path}?${text}` : path;
}

const part = encodeURIComponent;
const THALI = "/api/thali/v1";
const FEAST = "/api/v1";

function useGet<T, R = T>(path: string, params: Record<string, string | number | undefined>, select?: (body: T) => R) {
  const address = url(path, params);
  return useQuery<T, ApiError, R>({
    queryKey: [address],
    queryFn: () => request<T>(address),
    ...(select ? { select } : {}),
  });
}

export type Result<T> = UseQueryResult<T, ApiError>;

export const useBootstrap = () => useGet<Bootstrap>(`${THALI}/bootstrap`, {});
export const useProject = (project: string) => useGet<ProjectObject>(`${FEAST}/projects/${part(project)}`, {});

/** The placeholder entity of views without one; Feast hides it too. */
const realEntities = (body: { entities?: Entity[] }) =>
  (body.entities ?? []).filter((entity) => entity.spec.name !== "__dummy");
const dataSources = (body: { dataSources?: DataSource[] }) => body.dataSources ?? [];
const featureViews = (body: { featureViews?: FeatureView[] }) => body.featureViews ?? [];
const labelViews = (body: { featureViews?: FeatureView[] }) => (body.featureViews ?? []).map(asLabelView);
const asLabelView = (view: FeatureView): FeatureView => ({ ...view, type: "labelView" });
const features = (body: { features?: Feature[] }) => body.features ?? [];
const featureServices = (body: { featureServices?: FeatureService[] }) => body.featureServices ?? [];
const savedDatasets = (body: { savedDatasets?: SavedDataset[] }) => body.savedDatasets ?? [];
const permissions = (body: { permissions?: Permission[] }) => body.permissions ?? [];
const relationships = (body: { relationships?: Edge[] }) => body.relationships ?? [];

export const useEntities = (project: string) => useGet(`${FEAST}/entities`, { project }, realEntities);
export const useEntity = (project: string, name: string) =>
  useGet<Entity>(`${FEAST}/entities/${part(name)}`, { project });
export const useDataSources = (project: string) => useGet(`${FEAST}/data_sources`, { project }, dataSources);
export const useDataSource = (project: string, name: string) =>
  useGet<DataSource>(`${FEAST}/data_sources/${part(name)}`, { project });
export const useFeatureViews = (project: string) => useGet(`${FEAST}/feature_views`, { project }, featureViews);
export const useLabelViews = (project: string) => useGet(`${FEAST}/label_views`, { project }, labelViews);
export const useFeatureView = (project: string, name: string) =>
  useGet<FeatureView>(`${FEAST}/feature_views/${part(name)}`, { project });
export const useLabelView = (project: string, name: string) =>
  useGet<FeatureView, FeatureView>(`${FEAST}/label_views/${part(name)}`, { project }, asLabelView);
export const useFeatures = (project: string) => useGet(`${FEAST}/features`, { project }, features);
export const useFeature = (project: string, view: string, name: string) =>
  useGet<Feature>(`${FEAST}/features/${part(view)}/${part(name)}`, { project });
export const useFeatureServices = (project: string) =>
  useGet(`${FEAST}/feature_services`, { project }, featureServices);
export const useFeatureService = (project: string, name: string) =>
  useGet<FeatureService>(`${FEAST}/feature_services/${part(name)}`, { project });
export const useSavedDatasets = (project: string) => useGet(`${FEAST}/saved_datasets`, { project }, savedDatasets);
export const useSavedDataset = (project: string, name: string) =>
  useGet<SavedDataset>(`${FEAST}/saved_datasets/${part(name)}`, { project });
export const usePermissions = (project: string) => useGet(`${FEAST}/permissions`, { project }, permissions);
export const usePermission = (project: string, name: string) =>
  useGet<Permission>(`${FEAST}/permissions/${part(name)}`, { project });
export const useLineage = (project: string) => useGet(`${FEAST}/lineage/registry`, { project }, relationships);

const WHILE_RUNNING = 2_000;
const OTHERWISE = 15_000;

export function useJobs(project: string, featureView?: string, limit = 200) {
  const address = url(`${THALI}/jobs`, { project, featureView, limit });
  return useQuery<{ jobs?: Job[] }, ApiError, Job[]>({
    queryKey: [address],
    queryFn: () => request(address),
    select: jobsOf,
    refetchInterval: (query) =>
      query.state.data?.jobs?.some((job) => job.state === "running") ? WHILE_RUNNING : OTHERWISE,
  });
}
const jobsOf = (body: { jobs?: Job[] }) => body.jobs ?? [];

export function useSchedules(project: string) {
  const address = url(`${THALI}/schedules`, { project });
  return useQuery<{ schedules?: Schedule[] }, ApiError, Schedule[]>({
    queryKey: [address],
    queryFn: () => request(address),
    select: schedulesOf,
    refetchInterval: OTHERWISE,
  });
}
const schedulesOf = (body: { schedules?: Schedule[] }) => body.schedules ?? [];

export interface LookupRequest {
  project: string;
  features?: string[];
  featureService?: string;
  /** One value per key, as JSON text, so that integers beyond 2^53 survive. */
  entities: Record<string, string>;
}
export interface LookupValue {
  value: Value;
  status: string;
  eventTime: string | null;
}
/** What was read, by the name the server gave each column (`feature`, or `view__feature`). */
export interface LookupResult {
  values: Map<string, LookupValue>;
  milliseconds: number;
}

export async function lookup({ project, features, featureService, entities }: LookupRequest): Promise<LookupResult> {
  const keys = Object.entries(entities).map(([key, text]) => `${JSON.stringify(key)}:[${text}]`);
  const what = featureService === undefined ? { project, features } : { project, featureService };
  const body = `${JSON.stringify(what).slice(0, -1)},"entities":{${keys.join(",")}}}`;
  const started = performance.now();
  const answer = await request<OnlineResponse>(`${THALI}/lookup`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body,
  });
  const milliseconds = performance.now() - started;
  const values = new Map<string, LookupValue>();
  answer.metadata.feature_names.forEach((name, index) => {
    const column = answer.results[index];
    const time = column?.event_timestamps?.[0];
    values.set(name, {
      value: column?.values[0] ?? null,
      status: column?.statuses?.[0] ?? "PRESENT",
      // The epoch stands for "no event": join keys, computed features and rows that do not exist.
      eventTime: time === undefined || Date.parse(time) === 0 ? null : time,
    });
  });
  return { values, milliseconds };
}
