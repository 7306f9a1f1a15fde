/** A release of the chart on a real cluster, in a namespace of its own, and what is asked of it with kubectl and helm. */
import { execa } from "execa";
import type { Statement } from "../../shared/database/database.ts";
import { eventually } from "../support/eventually.ts";

export const ROOT = `${import.meta.dirname}/../..`;
export const NAMESPACE = "onsale-test";
/** Of this checkout, and of the same with a newer schema. */
export const IMAGE = "onsale:kubernetes";
export const NEXT_IMAGE = "onsale:kubernetes-next";
const CHART = "deploy/kubernetes/onsale";
/** Everything that the chart makes anew, such as a database with its replica. */
const READY_MAX_MS = 240_000;
/** A pod's grace, and what the platform needs. */
const GONE_MAX_MS = 60_000;

/** What a program prints. Throws with its errors when it fails. */
export async function outputOf(program: string, args: readonly string[], input = ""): Promise<string> {
  const { stdout } = await execa(program, args, { cwd: ROOT, input });
  return stdout;
}

export const kubectl = async (...args: string[]): Promise<string> =>
  outputOf("kubectl", ["--namespace", NAMESPACE, ...args]);

export const apply = async (manifest: object): Promise<string> =>
  outputOf("kubectl", ["--namespace", NAMESPACE, "apply", "--filename", "-"], JSON.stringify(manifest));

/** Resolves with what Helm prints: the chart's notes. */
export async function install(...set: string[]): Promise<string> {
  const [repository, tag] = IMAGE.split(":");
  const given = [`image.repository=${repository}`, `image.tag=${tag}`, ...set].flatMap((each) => [
    "--set",
    each,
  ]);
  const values = ["--values", "test/kubernetes/values.yaml", ...given];
  return outputOf("helm", ["install", "onsale", CHART, "--namespace", NAMESPACE, ...values]);
}

/** Resolves when everything new is ready, and nothing old is left. */
export async function upgrade(...set: string[]): Promise<void> {
  const values = ["--reset-then-reuse-values", ...set.flatMap((value) => ["--set", value])];
  const wait = ["--wait", "--timeout", `${READY_MAX_MS / 1_000}s`];
  await outputOf("helm", ["upgrade", "onsale", CHART, "--namespace", NAMESPACE, ...values, ...wait]);
  await nothingEnds();
}

export async function rollback(): Promise<void> {
  const wait = ["--wait", "--timeout", `${READY_MAX_MS / 1_000}s`];
  await outputOf("helm", ["rollback", "onsale", "--namespace", NAMESPACE, ...wait]);
  await nothingEnds();
}

export interface Pod {
  readonly name: string;
  readonly uid: string;
  readonly image: string;
  readonly ready: boolean;
  readonly ending: boolean;
}

export async function pods(selector: string): Promise<Pod[]> {
  const { items } = JSON.parse(await kubectl("get", "pods", "--selector", selector, "--output", "json")) as {
    items: {
      metadata: { name: string; uid: string; deletionTimestamp?: string };
      spec: { containers: { image: string }[] };
      status: { conditions?: { type: string; status: string }[] };
    }[];
  };
  return items.map(({ metadata: { name, uid, deletionTimestamp }, spec, status }) => ({
    name,
    uid,
    image: spec.containers[0]?.image ?? "",
    ready: status.conditions?.some(({ type, status: is }) => type === "Ready" && is === "True") === true,
    ending: deletionTimestamp !== undefined,
  }));
}

export const component = (name: string): string => `app.kubernetes.io/component=${name}`;
export const instancesOf = (database: string): string => `cnpg.io/cluster=onsale-${database}`;

/** Deletes a pod that the selector finds. Resolves when as many as before are ready again, and the pod is not among them. */
export async function deletePod(selector: string): Promise<void> {
  const [victim, ...others] = await pods(selector);
  if (victim === undefined) throw new Error(`there is no pod ${selector}`);
  await kubectl("delete", "pod", victim.name, "--wait=false");
  // A database's role moves to another pod, so all its pods are looked at.
  const group = selector.replace(/,cnpg.io\/instanceRole=.*/, "");
  const count = group === selector ? others.length + 1 : (await pods(group)).length;
  await eventually(
    `${victim.name} is replaced`,
    async () => {
      const ready = (await pods(group)).filter((pod) => pod.ready && !pod.ending);
      return ready.length >= count && ready.every(({ uid }) => uid !== victim.uid);
    },
    READY_MAX_MS,
  );
}

export async function nothingEnds(): Promise<void> {
  await eventually(
    "pods that were replaced end",
    async () => (await pods("app.kubernetes.io/instance=onsale")).every(({ ending }) => !ending),
    GONE_MAX_MS,
  );
}

/** A key of a Secret. */
export async function secretOf(name: string, key: string): Promise<string> {
  return kubectl("get", "secret", name, "--output", `go-template={{index .data "${key}" | base64decode}}`);
}

/** The router's port on this machine. */
export async function routerUrl(): Promise<string> {
  const port = await kubectl(
    "get",
    "service",
    "onsale-router",
    "--output",
    "jsonpath={.spec.ports[0].nodePort}",
  );
  return `http://127.0.0.1:${port}`;
}

/** The rows of a statement from a database's primary, as its superuser. */
export async function query<Row>(
  database: string,
  { text }: Pick<Statement, "text">,
  parameters: readonly string[] = [],
): Promise<Row[]> {
  const [primary] = await pods(`${instancesOf(database)},cnpg.io/instanceRole=primary`);
  if (primary === undefined) throw new Error(`${database} has no primary`);
  const bound = parameters.map((parameter) => `'${parameter}'`).join(" ");
  const psql = [
    "psql",
    "--dbname",
    database === "catalog" ? "catalog" : "shard",
    "--tuples-only",
    "--no-align",
    "--quiet",
  ];
  const printed = await outputOf(
    "kubectl",
    ["--namespace", NAMESPACE, "exec", "--stdin", primary.name, "--container", "postgres", "--", ...psql],
    `select row_to_json(answer) from (${text}) answer \\bind ${bound} \\g\n`,
  );
  return printed.split("\n").flatMap((line) => (line === "" ? [] : [JSON.parse(line) as Row]));
}

/** The lines of a shell block that follows this sentence in a document of the project. */
export function blockAfter(sentence: string, document: string): string {
  const [, after = ""] = document.split(sentence);
  const [, block] = /```sh\n(.*?)```/s.exec(after) ?? [];
  if (block === undefined) throw new Error(`no block follows "${sentence}"`);
  return block.replaceAll("--namespace tickets", `--namespace ${NAMESPACE}`);
}
