import { useFeatureView } from "../api";
import { Loaded } from "../components/parts";
import { ViewDetail } from "../components/view-detail";
import { useTitle } from "../hooks";
import type { PageProps } from "../routes";

export function FeatureViewPage({ project, name }: PageProps) {
  useTitle(name, "Feature views", project);
  const view = useFeatureView(project, name);
  return <Loaded of={view} title={name}>{(found) => <ViewDetail project={project} view={found} />}</Loaded>;
}
