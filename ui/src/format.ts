// Words for types, times and values. Pure functions only.
import type { DataSource, FeatureView, Tags, Value } from "./api";

const SCALARS: Record<string, string> = {
  BYTES: "Bytes",
  STRING: "String",
  INT32: "Int32",
  INT64: "Int64",
  DOUBLE: "Float64",
  FLOAT: "Float32",
  BOOL: "Bool",
  UNIX_TIMESTAMP: "UnixTimestamp",
  PDF_BYTES: "PdfBytes",
  IMAGE_BYTES: "ImageBytes",
  MAP: "Map",
  JSON: "Json",
  STRUCT: "Struct",
  UUID: "Uuid",
  TIME_UUID: "TimeUuid",
  DECIMAL: "Decimal",
  NULL: "Null",
};

/** Feast's name of a value type: `FLOAT_LIST` is `Array(Float32)`. */
export function typeName(valueType?: string, tags?: Tags): string {
  const nested = tags?.["feast:nested_inner_type"];
  if (nested) return nested;
  if (!valueType || valueType === "INVALID" || valueType === "UNKNOWN") return "unknown";
  const list = /^(.*)_(LIST|SET)$/.exec(valueType);
  if (list) return `${list[2] === "LIST" ? "Array" : "Set"}(${SCALARS[list[1] ?? ""] ?? list[1]})`;
  return SCALARS[valueType] ?? valueType;
}

const SOURCES: Record<string, string> = {
  BATCH_FILE: "File",
  BATCH_BIGQUERY: "BigQuery",
  BATCH_REDSHIFT: "Redshift",
  BATCH_SNOWFLAKE: "Snowflake",
  BATCH_TRINO: "Trino",
  BATCH_SPARK: "Spark",
  BATCH_ATHENA: "Athena",
  BATCH_ICEBERG: "Iceberg",
  STREAM_KAFKA: "Kafka",
  STREAM_KINESIS: "Kinesis",
  PUSH_SOURCE: "Push",
  REQUEST_SOURCE: "Request",
  CUSTOM_SOURCE: "Custom",
};

export function sourceKind(source: DataSource): string {
  const name = SOURCES[source.type ?? ""] ?? source.type ?? "unknown";
  if (source.type !== "CUSTOM_SOURCE") return name;
  const custom = source.dataSourceClassType?.split(".").pop();
  return custom ? custom.replace(/Source$/, "") : name;
}

export const VIEW_KINDS: Record<FeatureView["type"], string> = {
  featureView: "Batch",
  streamFeatureView: "Stream",
  onDemandFeatureView: "On demand",
  labelView: "Label",
};

/** Tags people wrote, without the ones Feast and thali keep for themselves. */
export function userTags(tags?: Tags): [string, string][] {
  const internal = /^(feast:|feast\.connection-ref\.|thali\.)/;
  return Object.entries(tags ?? {}).filter(([key]) => !internal.test(key));
}

const UNITS: [string, number][] = [
  ["d", 86_400],
  ["h", 3_600],
  ["min", 60],
  ["s", 1],
];

/** The two biggest units of a length of time: `2 h 5 min`. */
export function duration(seconds: number): string {
  if (!Number.isFinite(seconds)) return "–";
  if (seconds < 0) return `−${duration(-seconds)}`;
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 10) return `${seconds.toFixed(1).replace(/\.0$/, "")} s`;
  let rest = Math.round(seconds);
  const words: string[] = [];
  for (const [unit, size] of UNITS) {
    const count = Math.floor(rest / size);
    rest %= size;
    if (count > 0) words.push(`${count.toLocaleString("en")} ${unit}`);
    else if (words.length > 0) break;
    if (words.length === 2 || (words.length === 1 && unit === "d" && count >= 10)) break;
  }
  return words.join(" ");
}

/** Seconds of a protobuf JSON duration such as `7200s`. */
export function protoSeconds(text?: string): number {
  return text ? Number.parseFloat(text) : 0;
}

const pad = (value: number) => String(value).padStart(2, "0");

/** A moment in UTC, to the second: feature times are compared, so one zone for all. */
export function time(text?: string | null): string {
  if (!text) return "–";
  const date = new Date(text);
  if (Number.isNaN(date.getTime())) return text;
  const day = `${date.getUTCFullYear()}-${pad(date.getUTCMonth() + 1)}-${pad(date.getUTCDate())}`;
  return `${day} ${pad(date.getUTCHours())}:${pad(date.getUTCMinutes())}:${pad(date.getUTCSeconds())}`;
}

/** How far `text` lies from `now`: `3 min ago`, `in 2 h`. */
export function relative(text: string | null | undefined, now: number): string {
  if (!text) return "–";
  const seconds = (now - Date.parse(text)) / 1000;
  if (Number.isNaN(seconds)) return text;
  const length = Math.abs(seconds);
  if (length < 1) return "now";
  // Nobody reads the seconds of something minutes away.
  const rough = length < 60 ? Math.round(length) : Math.round(length / 60) * 60;
  return seconds > 0 ? `${duration(rough)} ago` : `in ${duration(rough)}`;
}

export const count = (value: number) => value.toLocaleString("en").replaceAll(",", " ");

export function valueText(value: Value): string {
  if (value === null) return "null";
  return typeof value === "string" ? value : JSON.stringify(value);
}

/** When the newest materialized interval ends. */
export function materializedUntil(view: FeatureView): string | undefined {
  const ends = (view.meta?.materializationIntervals ?? []).flatMap((interval) =>
    interval.endTime ? [interval.endTime] : [],
  );
  return ends.reduce<string | undefined>(
    (best, end) => (best && Date.parse(best) >= Date.parse(end) ? best : end),
    undefined,
  );
}

export type Freshness = "up to date" | "stale" | "empty" | "not materialized";

/** Whether what is online can still be within its time to live. */
export function freshness(view: FeatureView, now: number): Freshness {
  if (!["featureView", "streamFeatureView"].includes(view.type) || !view.spec.online) return "not materialized";
  const until = materializedUntil(view);
  if (!until) return "empty";
  const ttl = protoSeconds(view.spec.ttl);
  return ttl > 0 && (now - Date.parse(until)) / 1000 > ttl ? "stale" : "up to date";
}
