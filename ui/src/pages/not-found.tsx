import { Link } from "wouter";
import { Empty } from "../components/parts";
import { useTitle } from "../hooks";

export function NotFoundPage() {
  useTitle("Not found");
  return (
    <Empty title="There is no such page">
      <p>
        The address may be mistyped. <Link href="/">All projects</Link> are a good place to start again.
      </p>
    </Empty>
  );
}
