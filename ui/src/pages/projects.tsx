import { Link } from "wouter";
import { useBootstrap } from "../api";
import { Empty, Heading, Loaded } from "../components/parts";
import { count } from "../format";
import { useTitle } from "../hooks";
import { href } from "../routes";

export function ProjectsPage() {
  useTitle("Projects");
  const bootstrap = useBootstrap();
  return (
    <>
      <Heading title="Projects" />
      <Loaded of={bootstrap}>
        {({ projects }) =>
          projects.length === 0 ? (
            <Empty title="This registry has no project yet">
              <p>
                Apply a folder of definitions with <code>thali -c DIR apply</code>, or see everything at work with{" "}
                <code>thali demo</code>.
              </p>
            </Empty>
          ) : (
            <ul className="cards">
              {projects.map((project) => (
                <li key={project.name}>
                  <Link href={href(project.name)} className="card">
                    <h2>{project.name}</h2>
                    <p>{project.description || <span className="faint">No description</span>}</p>
                    <p className="card-counts">
                      <b>{count(project.counts.featureViews)}</b> feature views ·{" "}
                      <b>{count(project.counts.features)}</b> features · <b>{count(project.counts.featureServices)}</b>{" "}
                      services
                    </p>
                  </Link>
                </li>
              ))}
            </ul>
          )
        }
      </Loaded>
    </>
  );
}
