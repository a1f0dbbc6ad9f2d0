// Reads online values: a form for the keys a set of features needs, and a table of what came back.
import { useQuery } from "@tanstack/react-query";
import { type FormEvent, useState } from "react";
import { Link, useLocation, useSearch } from "wouter";
import {
  type ApiError,
  type Entity,
  type FeatureView,
  type Field,
  type LookupResult,
  type LookupValue,
  type Projection,
  lookup,
} from "../api";
import { duration, protoSeconds, typeName, valueText } from "../format";
import { useNow } from "../hooks";
import { featureHref } from "../routes";
import { Badge, ErrorBox, Moment, type Tone } from "./parts";
import { type Column, Table } from "./table";

/** One value a lookup has to be given. */
export interface Key {
  name: string;
  valueType?: string;
  source: "join key" | "request";
}

/** One feature of the answer. `view` is where it lives, `prefix` how the answer may call the view. */
export interface Wanted {
  view: string;
  prefix: string;
  field: Field;
  ttl?: string;
  computed?: boolean;
}

export const wantedOf = (view: FeatureView): Wanted[] =>
  (view.spec.features ?? []).map((field) => ({
    view: view.spec.name,
    prefix: view.spec.name,
    field,
    ttl: view.spec.ttl,
    computed: view.type === "onDemandFeatureView",
  }));

export const wantedOfService = (projections: Projection[], views: FeatureView[]): Wanted[] =>
  projections.flatMap((projection) => {
    const view = views.find((candidate) => candidate.spec.name === projection.featureViewName);
    return (projection.featureColumns ?? []).map((field) => ({
      view: projection.featureViewName,
      prefix: projection.featureViewNameAlias || projection.featureViewName,
      field,
      ttl: view?.spec.ttl,
      computed: view?.type === "onDemandFeatureView",
    }));
  });

/** The keys `view` needs; `renamed` is the join key map of the projection it is read through. */
export function keysOf(
  view: FeatureView,
  views: FeatureView[],
  entities: Entity[],
  renamed: Record<string, string> = {},
): Key[] {
  if (view.type === "onDemandFeatureView") {
    return Object.values(view.spec.sources ?? {}).flatMap((source): Key[] => {
      if (source.requestDataSource) {
        const schema = source.requestDataSource.requestDataOptions?.schema ?? [];
        return schema.map((field) => ({ name: field.name, valueType: field.valueType, source: "request" }));
      }
      const projection = source.featureViewProjection;
      return projection ? keysOfProjection(projection, views, entities) : [];
    });
  }
  const columns = view.spec.entityColumns?.length
    ? view.spec.entityColumns.map((column) => ({ name: column.name, valueType: column.valueType }))
    : (view.spec.entities ?? []).map((name) => {
        const entity = entities.find((candidate) => candidate.spec.name === name);
        return { name: entity?.spec.joinKey || name, valueType: entity?.spec.valueType };
      });
  return columns
    .filter((column) => !column.name.startsWith("__dummy"))
    .map((column) => ({ ...column, name: renamed[column.name] ?? column.name, source: "join key" }));
}

export function keysOfProjection(projection: Projection, views: FeatureView[], entities: Entity[]): Key[] {
  const view = views.find((candidate) => candidate.spec.name === projection.featureViewName);
  return view ? keysOf(view, views, entities, projection.joinKeyMap) : [];
}

export function uniqueKeys(keys: Key[]): Key[] {
  return [...new Map(keys.map((key) => [key.name, key])).values()];
}

/** The JSON text of what somebody typed for a key, or why it cannot be one. */
function jsonOf(key: Key, text: string): { json: string } | { problem: string } {
  const type = typeName(key.valueType);
  const whole = /^-?\d+$/.test(text);
  if (/^Int/.test(type))
    return whole ? { json: text } : { problem: `${key.name} is ${type}: a whole number is needed` };
  if (/^Float/.test(type)) {
    const number = Number(text);
    return Number.isFinite(number)
      ? { json: String(number) }
      : { problem: `${key.name} is ${type}: a number is needed` };
  }
  if (type === "Bool") {
    return /^(true|false)$/.test(text) ? { json: text } : { problem: `${key.name} is Bool: true or false is needed` };
  }
  return { json: type === "unknown" && whole ? text : JSON.stringify(text) };
}

interface Row extends Wanted {
  found?: LookupValue;
}

const PARAM = "k.";

export function Lookup({
  project,
  target,
  wanted,
  keys,
  showView = false,
}: {
  project: string;
  target: { features: string[] } | { featureService: string };
  wanted: Wanted[];
  keys: Key[];
  showView?: boolean;
}) {
  const search = useSearch();
  const [, navigate] = useLocation();
  const params = new URLSearchParams(search);
  const asked = keys.map((key) => params.get(PARAM + key.name) ?? "");
  const [drafts, setDrafts] = useState<Record<string, string>>({});
  const [problem, setProblem] = useState<string>();
  const now = useNow(1);
  // Without keys (a view about nothing in particular) there is nothing to wait for.
  const ready = asked.every(Boolean) && wanted.length > 0;
  const entities: Record<string, string> = keys.length === 0 ? { __dummy_id: '""' } : {};
  keys.forEach((key, index) => {
    const value = jsonOf(key, asked[index] ?? "");
    entities[key.name] = "json" in value ? value.json : JSON.stringify(asked[index]);
  });
  const answer = useQuery<LookupResult, ApiError>({
    queryKey: ["lookup", project, target, entities],
    queryFn: () => lookup({ project, ...target, entities }),
    enabled: ready,
    staleTime: 0,
    gcTime: 0,
  });

  const submit = (event: FormEvent) => {
    event.preventDefault();
    const next = new URLSearchParams(window.location.search);
    for (const [index, key] of keys.entries()) {
      const text = (drafts[key.name] ?? asked[index] ?? "").trim();
      const value = text ? jsonOf(key, text) : { problem: `${key.name} is needed` };
      if ("problem" in value) return setProblem(value.problem);
      next.set(PARAM + key.name, text);
    }
    setProblem(undefined);
    const unchanged = next.toString() === new URLSearchParams(window.location.search).toString();
    if (unchanged && ready) void answer.refetch();
    else navigate(`${window.location.pathname}?${next}`, { replace: true });
  };

  const result = ready ? answer.data : undefined;
  const rows: Row[] = wanted.map((one) => ({
    ...one,
    found: result?.values.get(`${one.prefix}__${one.field.name}`) ?? result?.values.get(one.field.name),
  }));
  return (
    <>
      <form className="lookup" onSubmit={submit} aria-label="Online lookup">
        {keys.map((key, index) => (
          <label key={key.name}>
            <span>
              <span className="mono">{key.name}</span>{" "}
              <span className="faint">
                {typeName(key.valueType)}
                {key.source === "request" && ", request"}
              </span>
            </span>
            <input
              name={key.name}
              className="mono"
              value={drafts[key.name] ?? asked[index] ?? ""}
              onChange={(event) => setDrafts({ ...drafts, [key.name]: event.target.value })}
              autoComplete="off"
              autoCapitalize="off"
              spellCheck={false}
            />
          </label>
        ))}
        <button type="submit" className="primary">
          Look up
        </button>
        <p className="note" role="status">
          {problem ??
            (answer.isFetching ? "Reading…" : result ? `Read in ${duration(result.milliseconds / 1000)}` : "")}
        </p>
      </form>
      {ready && answer.error && <ErrorBox error={answer.error} />}
      <Table
        rows={rows}
        columns={columnsFor(project, now, showView, result !== undefined)}
        rowKey={(row) => `${row.prefix}:${row.field.name}`}
        label="Features"
      />
    </>
  );
}

function columnsFor(project: string, now: number, showView: boolean, answered: boolean): Column<Row>[] {
  const columns: Column<Row>[] = [
    {
      label: "Feature",
      order: (row) => row.field.name,
      cell: (row) => (
        <Link className="mono name" href={featureHref(project, row.view, row.field.name)}>
          {row.field.name}
        </Link>
      ),
    },
  ];
  if (showView) {
    columns.push({
      label: "View",
      order: (row) => row.prefix,
      cell: (row) => (row.prefix === row.view ? row.view : `${row.prefix} (${row.view})`),
    });
  }
  columns.push({
    label: "Type",
    order: (row) => typeName(row.field.valueType),
    cell: (row) => <span className="type">{typeName(row.field.valueType, row.field.tags)}</span>,
  });
  if (!answered) {
    columns.push({
      label: "Description",
      grow: true,
      cell: (row) => row.field.description || <span className="faint">–</span>,
    });
    return columns;
  }
  columns.push(
    { label: "Value", grow: true, cell: (row) => <ValueCell found={row.found} /> },
    {
      label: "Status",
      order: (row) => row.found?.status ?? "",
      cell: (row) => <StatusBadge status={row.found?.status} />,
    },
    {
      label: "Event time (UTC)",
      order: (row) => row.found?.eventTime ?? "",
      cell: (row) => (row.computed ? <span className="faint">computed</span> : <Moment at={row.found?.eventTime} />),
    },
    { label: "Age", cell: (row) => <Age row={row} now={now} /> },
  );
  return columns;
}

/** A vector or a document is folded behind its beginning. */
const LONG = 80;

function ValueCell({ found }: { found?: LookupValue }) {
  if (!found) return <span className="faint">not in the answer</span>;
  if (found.value === null) return <span className="faint mono">null</span>;
  const text = valueText(found.value);
  if (text.length <= LONG) return <span className="mono value">{text}</span>;
  const size = Array.isArray(found.value) ? `${found.value.length} values` : `${text.length} characters`;
  return (
    <details className="mono value">
      <summary>
        {text.slice(0, LONG)}… <span className="faint">{size}</span>
      </summary>
      {text}
    </details>
  );
}

const STATUS: Record<string, Tone> = {
  PRESENT: "ok",
  NOT_FOUND: "quiet",
  NULL_VALUE: "quiet",
  OUTSIDE_MAX_AGE: "warn",
};

function StatusBadge({ status }: { status?: string }) {
  return status ? (
    <Badge tone={STATUS[status] ?? "plain"}>{status.toLowerCase().replaceAll("_", " ")}</Badge>
  ) : (
    <span className="faint">–</span>
  );
}

function Age({ row, now }: { row: Row; now: number }) {
  const at = row.found?.eventTime;
  if (!at) return <span className="faint">–</span>;
  const age = (now - Date.parse(at)) / 1000;
  const ttl = protoSeconds(row.ttl);
  const past = ttl > 0 && age > ttl;
  return (
    <span title={past ? `The time to live of ${row.view} is ${duration(ttl)}` : undefined}>
      <span className="nowrap">{duration(age)}</span> {past && <Badge tone="warn">past ttl</Badge>}
    </span>
  );
}
