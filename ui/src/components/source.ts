// Where a data source or a saved dataset lives, in one line and in full.
import type { DataSource } from "../api";

const PLACES = ["uri", "table", "tableRef", "query", "topic", "streamName", "path"];

/** The `…Options` message of a source: only one is ever set. */
export function options(source: Record<string, unknown>): [string, unknown][] {
  const found = Object.entries(source).find(
    ([key, value]) => /(Options|Storage)$/.test(key) && typeof value === "object" && value !== null,
  );
  return found ? Object.entries(found[1] as Record<string, unknown>) : [];
}

export function location(source: DataSource): string {
  if (source.type === "REQUEST_SOURCE")
    return (source.requestDataOptions?.schema ?? []).map((field) => field.name).join(", ");
  if (source.batchSource && source.type === "PUSH_SOURCE") return `→ ${source.batchSource.name}`;
  return place(options(source));
}

export function place(settings: [string, unknown][]): string {
  for (const key of PLACES) {
    const value = settings.find(([name]) => name === key)?.[1];
    if (typeof value === "string" && value) return value;
  }
  return "";
}

/** `kafkaBootstrapServers` as words. */
export function words(key: string): string {
  const text = key.replace(/([A-Z])/g, " $1").toLowerCase();
  return text.charAt(0).toUpperCase() + text.slice(1);
}

export function plainText(value: unknown): string {
  return typeof value === "string" ? value : JSON.stringify(value);
}
