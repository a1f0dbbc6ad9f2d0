// Small pieces every page uses.
import { type ReactNode, useState } from "react";
import { Link } from "wouter";
import type { ApiError, Result, Tags as TagMap, UserFunction } from "../api";
import { relative, time, userTags } from "../format";
import { useNow } from "../hooks";

export type Tone = "ok" | "warn" | "bad" | "busy" | "quiet" | "plain";

export function Badge({ tone = "plain", children }: { tone?: Tone; children: ReactNode }) {
  return <span className={`badge ${tone}`}>{children}</span>;
}

export function Spinner({ label = "Loading" }: { label?: string }) {
  return (
    <p className="loading" role="status">
      <span className="spinner" aria-hidden="true" /> {label}…
    </p>
  );
}

export function ErrorBox({ error, retry }: { error: ApiError | Error; retry?: () => void }) {
  const status = "status" in error && error.status > 0 ? ` (${error.status})` : "";
  return (
    <div className="notice bad" role="alert">
      <p>
        <strong>The server refused{status}.</strong> {error.message}
      </p>
      {retry && (
        <button type="button" onClick={retry}>
          Try again
        </button>
      )}
    </div>
  );
}

export function Empty({ title, children }: { title: string; children?: ReactNode }) {
  return (
    <div className="empty">
      <p className="empty-title">{title}</p>
      {children}
    </div>
  );
}

/** Loading, the server's error (under `title`, where it takes the place of a whole page), or what `children` make of the answer. */
export function Loaded<T>({ of, title, children }: { of: Result<T>; title?: string; children: (data: T) => ReactNode }) {
  if (of.data !== undefined) return <>{children(of.data)}</>;
  if (!of.error) return <Spinner />;
  return (
    <>
      {title && <Heading title={title} />}
      <ErrorBox error={of.error} retry={() => void of.refetch()} />
    </>
  );
}

export function Heading({
  kind,
  title,
  badges,
  children,
}: {
  kind?: string;
  title: string;
  badges?: ReactNode;
  children?: ReactNode;
}) {
  return (
    <header className="heading">
      {kind && <p className="eyebrow">{kind}</p>}
      <div className="heading-row">
        <h1>{title}</h1>
        {badges && <div className="badges">{badges}</div>}
      </div>
      {children && <div className="lede">{children}</div>}
    </header>
  );
}

export function Panel({
  title,
  note,
  actions,
  children,
  flush = false,
}: {
  title?: string;
  note?: ReactNode;
  actions?: ReactNode;
  children: ReactNode;
  flush?: boolean;
}) {
  return (
    <section className={flush ? "panel flush" : "panel"} aria-label={title}>
      {(title || actions) && (
        <div className="panel-head">
          {title && <h2>{title}</h2>}
          {note && <span className="note">{note}</span>}
          {actions && <div className="panel-actions">{actions}</div>}
        </div>
      )}
      {children}
    </section>
  );
}

/** A list of facts; those without a value are left out. */
export function Facts({ items }: { items: [string, ReactNode][] }) {
  const shown = items.filter(([, value]) => value !== undefined && value !== null && value !== "" && value !== false);
  return (
    <dl className="facts">
      {shown.map(([name, value]) => (
        <div key={name}>
          <dt>{name}</dt>
          <dd>{value}</dd>
        </div>
      ))}
    </dl>
  );
}

export function Tags({ tags, link }: { tags?: TagMap; link?: (tag: string) => string }) {
  const shown = userTags(tags);
  if (shown.length === 0) return null;
  return (
    <span className="tags">
      {shown.map(([key, value]) => {
        const text = value ? `${key}:${value}` : key;
        return link ? (
          <Link key={key} className="tag" href={link(text)} title={text}>
            {text}
          </Link>
        ) : (
          <span key={key} className="tag" title={text}>
            {text}
          </span>
        );
      })}
    </span>
  );
}

/** `Tags` as the value of a fact: nothing when there is none, so that the fact goes too. */
export function tagsOrNothing(tags?: TagMap, link?: (tag: string) => string): ReactNode {
  return userTags(tags).length > 0 && <Tags tags={tags} link={link} />;
}

export function When({ at }: { at?: string | null }) {
  const now = useNow();
  if (!at) return <span className="faint">–</span>;
  return (
    <time dateTime={at} title={`${time(at)} UTC`}>
      {relative(at, now)}
    </time>
  );
}

export function Moment({ at }: { at?: string | null }) {
  if (!at) return <span className="faint">–</span>;
  return (
    <time dateTime={at} className="mono nowrap">
      {time(at)}
    </time>
  );
}

export function Code({ text, label }: { text: string; label: string }) {
  const [copied, setCopied] = useState(false);
  return (
    <figure className="code">
      <figcaption>
        <span>{label}</span>
        {"clipboard" in navigator && (
          <button type="button" onClick={() => void navigator.clipboard.writeText(text).then(() => setCopied(true))}>
            {copied ? "Copied" : "Copy"}
          </button>
        )}
      </figcaption>
      <pre tabIndex={0}>{text.trim()}</pre>
    </figure>
  );
}

/** The definition as Python, the functions it carries, and the object as the registry holds it. */
export function Definition({
  python,
  functions = [],
  object,
}: {
  python?: string;
  functions?: UserFunction[];
  object: unknown;
}) {
  return (
    <div className="stack">
      {functions.map((udf, index) =>
        udf.bodyText ? (
          <Code key={udf.name ?? index} label={`Transformation ${udf.name ?? ""}`} text={udf.bodyText} />
        ) : null,
      )}
      {python && <Code label="Python definition" text={python} />}
      <details className="fold">
        <summary>Registry object as JSON</summary>
        <Code
          label="JSON"
          text={JSON.stringify(object, (key, value) => (key === "featureDefinition" ? undefined : value), 2)}
        />
      </details>
    </div>
  );
}

/** Tabs that are links: the chosen one is in the address. */
export function Tabs({ tabs, chosen, base }: { tabs: [string, string][]; chosen: string; base: string }) {
  return (
    <nav className="tabs" aria-label="Sections">
      {tabs.map(([key, label]) => (
        <Link
          key={key}
          href={key === tabs[0]?.[0] ? base : `${base}?tab=${key}`}
          aria-current={key === chosen ? "page" : undefined}
        >
          {label}
        </Link>
      ))}
    </nav>
  );
}
