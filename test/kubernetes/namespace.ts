/** A namespace that is empty at the beginning, and gone with all databases at the end, also of a run that was interrupted. */
import { apply, IMAGE, NAMESPACE, NEXT_IMAGE, outputOf, ROOT } from "./release.ts";

/** For databases and volumes of a run before. */
const DELETED_MAX = "180s";
/** The same with a newer schema, as the next version has one. */
const NEXT = `FROM ${IMAGE}
USER root
RUN echo "create table of_the_next_version (id integer);" > migrations/shard/9999_next.sql
USER node
`;

export default async function setup(): Promise<() => Promise<void>> {
  // With it a run begins with the release that is there, and leaves it.
  const keep = process.env["KUBERNETES_KEEP"] === "true";
  await outputOf("docker", ["build", "--network", "host", "--quiet", "--tag", IMAGE, ROOT]);
  await outputOf("docker", ["build", "--network", "host", "--quiet", "--tag", NEXT_IMAGE, "-"], NEXT);
  // A program that puts images of the local Docker engine into the cluster. A cluster of Docker's own sees them.
  const load = process.env["KUBERNETES_LOAD"];
  if (load !== undefined) await outputOf(load, [IMAGE, NEXT_IMAGE, "redis:8", "rabbitmq:4-management"]);
  if (!keep) await remove(`--timeout=${DELETED_MAX}`);
  await apply({
    apiVersion: "v1",
    kind: "Namespace",
    metadata: { name: NAMESPACE, labels: { "pod-security.kubernetes.io/enforce": "restricted" } },
  });
  return async () => {
    if (!keep) await remove("--wait=false");
  };
}

async function remove(wait: string): Promise<void> {
  await outputOf("kubectl", ["delete", "namespace", NAMESPACE, "--ignore-not-found", wait]);
}
