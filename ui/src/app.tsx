// The frame around every page: navigation, project chooser, jump box, theme.
import { useQueryClient } from "@tanstack/react-query";
import { useEffect, useState } from "react";
import { Link, Route, Switch, useLocation } from "wouter";
import { useBootstrap } from "./api";
import { Jump } from "./components/jump";
import { count } from "./format";
import { NotFoundPage } from "./pages/not-found";
import { href, ROUTES } from "./routes";
import { THEMES, useTheme } from "./theme";

const GROUPS = ["", "Registry", "Operate"] as const;

export function App() {
  const [location] = useLocation();
  const project = projectOf(location);
  const [open, setOpen] = useState(false);
  const [jumping, setJumping] = useState(false);

  useEffect(() => {
    setOpen(false);
    setJumping(false);
    window.scrollTo(0, 0);
  }, [location]);
  useEffect(() => {
    const onKey = (event: KeyboardEvent) => {
      const typing = event.target instanceof HTMLElement && /^(INPUT|TEXTAREA|SELECT)$/.test(event.target.tagName);
      if ((event.key === "/" && !typing) || (event.key === "k" && (event.metaKey || event.ctrlKey))) {
        event.preventDefault();
        setJumping(true);
      }
    };
    window.addEventListener("keydown", onKey);
    return () => window.removeEventListener("keydown", onKey);
  }, []);

  return (
    <div className="frame">
      <a className="skip" href="#main">
        Skip to content
      </a>
      <header className={open ? "side open" : "side"}>
        <div className="brand">
          <Link href="/" className="logo">
            <Mark /> thali
          </Link>
          <button
            type="button"
            className="menu"
            aria-expanded={open}
            aria-controls="nav"
            onClick={() => setOpen(!open)}
          >
            {open ? "Close" : "Menu"}
          </button>
        </div>
        <div className="side-body" id="nav">
          <ProjectChooser project={project} />
          {project && <Navigation project={project} location={location} />}
          <Foot />
        </div>
      </header>
      <div className="body">
        {project && (
          <div className="top">
            <Crumbs project={project} location={location} />
            <button type="button" className="jump-button" onClick={() => setJumping(true)}>
              Jump to… <kbd>/</kbd>
            </button>
          </div>
        )}
        <main id="main" tabIndex={-1}>
          <Switch>
            {ROUTES.map(({ path, page: Page }) => (
              <Route key={path} path={path}>
                {(params: Record<string, string | undefined>) => (
                  <Page
                    // Two objects of a kind share nothing but the page: state of one must not show on the other.
                    key={location}
                    project={params.project ?? ""}
                    name={params.name ?? ""}
                    view={params.view ?? ""}
                  />
                )}
              </Route>
            ))}
            <Route>
              <NotFoundPage />
            </Route>
          </Switch>
        </main>
      </div>
      {jumping && project && <Jump project={project} close={() => setJumping(false)} />}
    </div>
  );
}

function projectOf(location: string): string | undefined {
  const match = /^\/p\/([^/]+)/.exec(location);
  return match?.[1] === undefined ? undefined : decode(match[1]);
}

function decode(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

function Mark() {
  return (
    <svg viewBox="0 0 32 32" width="22" height="22" aria-hidden="true" className="mark">
      <circle cx="16" cy="16" r="15" className="rim" />
      <circle cx="16" cy="16" r="12.6" className="plate" />
      <circle cx="16" cy="10" r="3.6" className="bowl one" />
      <circle cx="10.4" cy="19.4" r="3.6" className="bowl two" />
      <circle cx="21.6" cy="19.4" r="3.6" className="bowl three" />
    </svg>
  );
}

function ProjectChooser({ project }: { project?: string }) {
  const { data } = useBootstrap();
  const [, navigate] = useLocation();
  if (!project) return null;
  const names = data?.projects.map((one) => one.name) ?? [];
  if (!names.includes(project)) names.push(project);
  return (
    <label className="chooser">
      <span>Project</span>
      <select value={project} onChange={(event) => navigate(href(event.target.value))}>
        {names.map((name) => (
          <option key={name}>{name}</option>
        ))}
      </select>
    </label>
  );
}

function Navigation({ project, location }: { project: string; location: string }) {
  const { data } = useBootstrap();
  const counts = data?.projects.find((one) => one.name === project)?.counts;
  return (
    <nav aria-label="Main">
      {GROUPS.map((group) => (
        <div key={group} className="nav-group">
          {group && <p className="nav-title">{group}</p>}
          {ROUTES.filter((route) => route.nav?.group === group).map(({ path, nav }) => {
            const target = path.replace(":project", encodeURIComponent(project));
            const here =
              path === "/p/:project" ? location === target : location === target || location.startsWith(`${target}/`);
            return (
              <Link key={path} href={target} aria-current={here ? "page" : undefined}>
                <span>{nav?.label}</span>
                {nav?.count && counts && <span className="nav-count">{count(counts[nav.count])}</span>}
              </Link>
            );
          })}
        </div>
      ))}
    </nav>
  );
}

function Foot() {
  const { data } = useBootstrap();
  const [theme, setTheme] = useTheme();
  const client = useQueryClient();
  return (
    <div className="foot">
      <div className="foot-row">
        <button
          type="button"
          onClick={() => setTheme(THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length] ?? "system")}
          aria-label={`Theme: ${theme}. Change`}
        >
          Theme: {theme}
        </button>
        <button type="button" onClick={() => void client.invalidateQueries()}>
          Refresh
        </button>
      </div>
      {data && (
        <p className="faint">
          thali {data.version}
          <br />
          {data.roles.join(", ")}
        </p>
      )}
    </div>
  );
}

function Crumbs({ project, location }: { project: string; location: string }) {
  const parts = location.split("/").slice(3).map(decode);
  const section = ROUTES.find((route) => route.nav && route.path === `/p/:project/${parts[0]}`);
  const rest = parts.slice(1).filter((_, index) => parts.length <= 2 || index !== 1);
  return (
    <nav className="crumbs" aria-label="Breadcrumb">
      <Link href={href(project)}>{project}</Link>
      {section && (
        <>
          <span aria-hidden="true">/</span>
          <Link
            href={section.path.replace(":project", encodeURIComponent(project))}
            aria-current={rest.length === 0 ? "page" : undefined}
          >
            {section.nav?.label}
          </Link>
        </>
      )}
      {rest.map((name, index) => (
        <span key={name} className="crumb-leaf">
          <span aria-hidden="true">/ </span>
          {index < rest.length - 1 ? <Link href={href(project, "feature-view", name)}>{name}</Link> : name}
        </span>
      ))}
    </nav>
  );
}
