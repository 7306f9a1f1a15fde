/** A real Prometheus, with the project's own rules, that scrapes a test's processes; and promtool. */
import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { execa } from "execa";
import getPort from "get-port";
import { parse, stringify } from "yaml";
import { eventually } from "./eventually.ts";

const DEPLOYED = resolve(import.meta.dirname, "../../deploy/prometheus");

/** A job of the deployed configuration and whom to scrape for it here. */
export interface ScrapeJob {
  readonly job: string;
  readonly targets: readonly { readonly url: string; readonly labels?: Readonly<Record<string, string>> }[];
}

export type TestPrometheus = Awaited<ReturnType<typeof startPrometheus>>;

/** Why no Prometheus can be started here; undefined when one can. */
export function prometheusObstacle(): string | undefined {
  return spawnSync("prometheus", ["--version"]).status === 0 ? undefined : "there is no prometheus on PATH";
}

/** Starts one that scrapes every second; stopped, and its data removed, when disposed. */
export async function startPrometheus(jobs: readonly ScrapeJob[]) {
  const directory = mkdtempSync(join(tmpdir(), "onsale-prometheus-"));
  writeFileSync(join(directory, "prometheus.yml"), configurationFor(jobs));
  const host = `127.0.0.1:${await getPort()}`;
  const flags = [
    `--config.file=${directory}/prometheus.yml`,
    `--storage.tsdb.path=${directory}/data`,
    `--web.listen-address=${host}`,
    "--web.enable-remote-write-receiver",
  ];
  const child = execa("prometheus", flags, { stdio: "ignore", reject: false });
  const url = `http://${host}`;
  const prometheus = {
    url,
    query: async (expr: string) => queryPrometheus(url, expr),
    async [Symbol.asyncDispose]() {
      child.kill();
      await child;
      rmSync(directory, { recursive: true });
    },
  };
  const ready = async () => (await fetch(`${url}/-/ready`).catch(() => undefined))?.ok;
  await eventually("Prometheus is ready", ready, 30_000).catch(async (error: unknown) => {
    await prometheus[Symbol.asyncDispose]();
    throw error;
  });
  return prometheus;
}

/** The deployed file with other targets and without the jobs of what is not here. Throws when it does not know a job. */
function configurationFor(jobs: readonly ScrapeJob[]): string {
  const deployed = parse(readFileSync(join(DEPLOYED, "prometheus.yml"), "utf8")) as {
    scrape_configs: { job_name: string }[];
  };
  const scrape_configs = jobs.map(({ job, targets }) => {
    const config = deployed.scrape_configs.find(({ job_name }) => job_name === job);
    if (config === undefined) throw new Error(`prometheus.yml has no job ${job}`);
    const static_configs = targets.map(({ url, labels = {} }) => ({ targets: [new URL(url).host], labels }));
    return { ...config, static_configs };
  });
  return stringify({
    global: { scrape_interval: "1s", scrape_timeout: "1s", evaluation_interval: "1s" },
    rule_files: [join(DEPLOYED, "rules/*.yml")],
    scrape_configs,
  });
}

/** What an instant query gives now. Throws with Prometheus' words when the query is wrong. */
export async function queryPrometheus(url: string, expr: string) {
  const body = new URLSearchParams({ query: expr });
  const answer = (await (await fetch(`${url}/api/v1/query`, { method: "POST", body })).json()) as {
    error?: string;
    data?: { result: { metric: Record<string, string>; value: [number, string] }[] };
  };
  if (answer.data === undefined) throw new Error(`${answer.error}: ${expr}`);
  return answer.data.result.map(({ metric, value: [, value] }) => ({ metric, value: Number(value) }));
}

const IMAGE = "prom/prometheus:v2.53.3";

/** How to run a program of Prometheus in `directory`, or why it cannot be run here. */
export type Promtool =
  { readonly program: string; readonly args: readonly string[] } | { readonly obstacle: string };

/** The one on PATH, else that of the image, with `deploy/prometheus` at hand under the same path. */
export function findPromtool(directory: string): Promtool {
  if (spawnSync("promtool", ["--version"]).status === 0) return { program: "promtool", args: [] };
  if (spawnSync("docker", ["image", "inspect", IMAGE]).status === 0) {
    const args = ["run", "--rm", "--network", "none", "--entrypoint", "promtool"];
    return { program: "docker", args: [...args, "--volume", `${directory}:${directory}:ro`, IMAGE] };
  }
  return { obstacle: `there is neither a promtool on PATH nor the image ${IMAGE}` };
}

/** Runs promtool to its end, and gives what it said on both outputs. */
export async function runPromtool(
  { program, args }: Exclude<Promtool, { obstacle: string }>,
  ...more: readonly string[]
) {
  const { exitCode, all } = await execa(program, [...args, ...more], { all: true, reject: false });
  return { code: exitCode, said: all };
}
