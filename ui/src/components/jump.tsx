// "Jump to…": every object of the project by name, with the keyboard alone.
import { type KeyboardEvent, useEffect, useRef, useState } from "react";
import { useLocation } from "wouter";
import {
  useDataSources,
  useEntities,
  useFeatures,
  useFeatureServices,
  useFeatureViews,
  useSavedDatasets,
} from "../api";
import { featureHref, href, ROUTES } from "../routes";

interface Hit {
  kind: string;
  name: string;
  more?: string;
  href: string;
}

const SHOWN = 12;

export function Jump({ project, close }: { project: string; close: () => void }) {
  const dialog = useRef<HTMLDialogElement>(null);
  const [query, setQuery] = useState("");
  const [at, setAt] = useState(0);
  const [, navigate] = useLocation();
  const hits = useHits(project, query.trim().toLowerCase());
  useEffect(() => {
    dialog.current?.showModal();
  }, []);

  const go = (hit: Hit | undefined) => {
    if (!hit) return;
    close();
    navigate(hit.href);
  };
  const onKey = (event: KeyboardEvent) => {
    if (event.key === "ArrowDown") setAt(Math.min(at + 1, hits.length - 1));
    else if (event.key === "ArrowUp") setAt(Math.max(at - 1, 0));
    else if (event.key === "Enter") go(hits[at]);
    else return;
    event.preventDefault();
  };
  return (
    <dialog
      ref={dialog}
      className="jump"
      aria-label="Jump to"
      onClose={close}
      onClick={(event) => event.target === dialog.current && dialog.current?.close()}
    >
      <input
        type="search"
        role="combobox"
        aria-expanded="true"
        aria-controls="jump-hits"
        aria-activedescendant={hits[at] ? `jump-${at}` : undefined}
        aria-label="Name of an object or page"
        placeholder="Name of a view, feature, entity, page…"
        value={query}
        onChange={(event) => {
          setQuery(event.target.value);
          setAt(0);
        }}
        onKeyDown={onKey}
        spellCheck={false}
        autoComplete="off"
      />
      <ul id="jump-hits" role="listbox" aria-label="Matches">
        {hits.map((hit, index) => (
          // biome-ignore lint/a11y/useKeyWithClickEvents: the combobox above handles the keys
          <li
            key={hit.href}
            id={`jump-${index}`}
            role="option"
            aria-selected={index === at}
            onMouseMove={() => setAt(index)}
            onClick={() => go(hit)}
          >
            <span className="jump-kind">{hit.kind}</span>
            <span className="mono">{hit.name}</span>
            {hit.more && <span className="faint">{hit.more}</span>}
          </li>
        ))}
      </ul>
      {hits.length === 0 && <p className="faint jump-none">Nothing is called like that.</p>}
    </dialog>
  );
}

function useHits(project: string, query: string): Hit[] {
  const views = useFeatureViews(project).data ?? [];
  const services = useFeatureServices(project).data ?? [];
  const entities = useEntities(project).data ?? [];
  const sources = useDataSources(project).data ?? [];
  const datasets = useSavedDatasets(project).data ?? [];
  const features = useFeatures(project).data ?? [];
  const all: Hit[] = [
    ...ROUTES.flatMap(({ path, nav }) =>
      nav ? [{ kind: "page", name: nav.label, href: path.replace(":project", encodeURIComponent(project)) }] : [],
    ),
    ...views.map(({ spec }) => ({ kind: "view", name: spec.name, href: href(project, "feature-view", spec.name) })),
    ...services.map(({ spec }) => ({
      kind: "service",
      name: spec.name,
      href: href(project, "feature-service", spec.name),
    })),
    ...entities.map(({ spec }) => ({ kind: "entity", name: spec.name, href: href(project, "entity", spec.name) })),
    ...sources.map(({ name }) => ({ kind: "source", name, href: href(project, "data-source", name) })),
    ...datasets.map(({ spec }) => ({ kind: "dataset", name: spec.name, href: href(project, "data-set", spec.name) })),
    ...features.map(({ name, featureView }) => ({
      kind: "feature",
      name,
      more: featureView,
      href: featureHref(project, featureView, name),
    })),
  ];
  const rank = (hit: Hit) => {
    const name = hit.name.toLowerCase();
    return name === query
      ? 0
      : name.startsWith(query)
        ? 1
        : name.includes(query)
          ? 2
          : `${hit.more ?? ""} ${hit.kind}`.includes(query)
            ? 3
            : 9;
  };
  return all
    .map((hit) => ({ hit, rank: rank(hit) }))
    .filter((one) => one.rank < 9)
    .sort((a, b) => a.rank - b.rank)
    .slice(0, SHOWN)
    .map((one) => one.hit);
}
