import { useLabelView } from "../api";
import { Loaded } from "../components/parts";
import { ViewDetail } from "../components/view-detail";
import { useTitle } from "../hooks";
import type { PageProps } from "../routes";

export function LabelViewPage({ project, name }: PageProps) {
  useTitle(name, "Label views", project);
  const view = useLabelView(project, name);
  return <Loaded of={view} title={name}>{(found) => <ViewDetail project={project} view={found} />}</Loaded>;
}
