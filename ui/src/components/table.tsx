// The one table: filter, facets and order live in the address; on a phone every row becomes a card.
import { type ReactNode, useMemo, useState } from "react";
import { useParam } from "../hooks";
import { count } from "../format";
import { Empty } from "./parts";

export interface Column<T> {
  label: string;
  cell: (row: T) => ReactNode;
  /** What the rows are ordered by when the head is pressed. */
  order?: (row: T) => string | number;
  numeric?: boolean;
  /** Takes the room that is left. */
  grow?: boolean;
}

const PAGE = 200;

export function Table<T>({
  rows,
  columns,
  rowKey,
  label,
  detail,
}: {
  rows: T[];
  columns: Column<T>[];
  rowKey: (row: T) => string;
  label: string;
  /** A full-width line under a row, such as its error. */
  detail?: (row: T) => ReactNode;
}) {
  const [sort, setSort] = useParam("sort");
  const [shown, setShown] = useState(PAGE);
  const sorted = useMemo(() => {
    const order = columns.find((column) => column.label === sort.replace(/^-/, ""))?.order;
    if (!order) return rows;
    const sign = sort.startsWith("-") ? -1 : 1;
    return [...rows].sort((a, b) => sign * compare(order(a), order(b)));
  }, [rows, columns, sort]);

  return (
    <>
      <table className="table" aria-label={label}>
        <thead>
          <tr>
            {columns.map((column) => {
              const direction =
                sort === column.label ? "ascending" : sort === `-${column.label}` ? "descending" : undefined;
              return (
                <th key={column.label} scope="col" className={classOf(column)} aria-sort={direction}>
                  {column.order ? (
                    <button
                      type="button"
                      onClick={() => setSort(direction === "ascending" ? `-${column.label}` : column.label)}
                    >
                      {column.label}
                      <span aria-hidden="true">
                        {direction === "ascending" ? " ↑" : direction === "descending" ? " ↓" : ""}
                      </span>
                    </button>
                  ) : (
                    column.label
                  )}
                </th>
              );
            })}
          </tr>
        </thead>
        {sorted.slice(0, shown).map((row) => {
          const extra = detail?.(row);
          return (
            <tbody key={rowKey(row)}>
              <tr>
                {columns.map((column) => (
                  <td key={column.label} className={classOf(column)} data-label={column.label}>
                    {column.cell(row)}
                  </td>
                ))}
              </tr>
              {extra && (
                <tr className="detail">
                  <td colSpan={columns.length}>{extra}</td>
                </tr>
              )}
            </tbody>
          );
        })}
      </table>
      {sorted.length > shown && (
        <p className="more">
          <button type="button" onClick={() => setShown(shown + 5 * PAGE)}>
            Show more ({count(sorted.length - shown)} left)
          </button>
        </p>
      )}
    </>
  );
}

function classOf(column: Column<never>): string | undefined {
  return column.numeric ? "num" : column.grow ? "grow" : undefined;
}

function compare(a: string | number, b: string | number): number {
  return typeof a === "number" && typeof b === "number"
    ? a - b
    : String(a).localeCompare(String(b), "en", { numeric: true });
}

export interface Facet<T> {
  param: string;
  label: string;
  of: (row: T) => string | string[];
}

/** A table under a filter box and one select per facet. */
export function FilteredTable<T>({
  rows,
  text,
  facets = [],
  empty,
  noun,
  ...table
}: {
  rows: T[];
  columns: Column<T>[];
  rowKey: (row: T) => string;
  detail?: (row: T) => ReactNode;
  /** All the words the filter looks at. */
  text: (row: T) => string;
  facets?: Facet<T>[];
  empty: ReactNode;
  noun: string;
}) {
  const [query, setQuery] = useParam("q");
  const [tag, setTag] = useParam("tag");
  const chosen = facets.map((facet) => ({ facet, state: useParam(facet.param) }));
  const words = query.toLowerCase().split(/\s+/).filter(Boolean);
  const left = rows.filter((row) => {
    const haystack = text(row).toLowerCase();
    return (
      words.every((word) => haystack.includes(word)) &&
      (!tag || haystack.includes(tag.toLowerCase())) &&
      chosen.every(({ facet, state: [value] }) => !value || [facet.of(row)].flat().includes(value))
    );
  });
  if (rows.length === 0) return <>{empty}</>;
  const clear = () => {
    setQuery("");
    setTag("");
    for (const { state } of chosen) state[1]("");
  };
  return (
    <section className="panel flush" aria-label={noun}>
      <div className="filters">
        <input
          type="search"
          aria-label={`Filter ${noun}`}
          placeholder={`Filter ${noun}`}
          value={query}
          onChange={(event) => setQuery(event.target.value)}
          spellCheck={false}
          autoComplete="off"
        />
        {chosen.map(({ facet, state: [value, set] }) => {
          const options = [...new Set(rows.flatMap((row) => facet.of(row)))].filter(Boolean).sort();
          if (options.length < 2 && !value) return null;
          return (
            <select
              key={facet.param}
              aria-label={facet.label}
              value={value}
              onChange={(event) => set(event.target.value)}
            >
              <option value="">{facet.label}: all</option>
              {options.map((option) => (
                <option key={option}>{option}</option>
              ))}
            </select>
          );
        })}
        {tag && (
          <button type="button" className="tag" onClick={() => setTag("")} aria-label={`Remove tag filter ${tag}`}>
            {tag} ×
          </button>
        )}
        <span className="note" role="status">
          {left.length === rows.length ? count(rows.length) : `${count(left.length)} of ${count(rows.length)}`}
        </span>
      </div>
      {left.length === 0 ? (
        <Empty title={`No ${noun} match`}>
          <button type="button" onClick={clear}>
            Clear filters
          </button>
        </Empty>
      ) : (
        <Table rows={left} label={noun} {...table} />
      )}
    </section>
  );
}
