/** The cluster of docker-compose.yml under a project name, ports and secrets of its own. */
import { execFile } from "node:child_process";
import { promisify } from "node:util";
import { chooseFreePort } from "../../deploy/embedded/ports.ts";
import { INTERNAL_TOKEN, SECRET } from "../support/running-cluster.ts";

export const ROOT = `${import.meta.dirname}/../..`;
/** Of the service k6, made by test/containers/k6.Dockerfile: its own image is a registry away. */
export const K6_IMAGE = "onsale-k6:test";
const OUTPUT_MAX_BYTES = 16 * 1024 * 1024;

const execute = promisify(execFile);

export interface Output {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs a program to its end, whatever its exit code. */
export async function run(
  program: string,
  args: readonly string[],
  env: Readonly<Record<string, string>> = {},
): Promise<Output> {
  try {
    const { stdout, stderr } = await execute(program, args, {
      cwd: ROOT,
      env: { ...process.env, ...env },
      maxBuffer: OUTPUT_MAX_BYTES,
    });
    return { code: 0, stdout, stderr };
  } catch (error) {
    const { code, stdout = "", stderr = String(error) } = error as Partial<Output>;
    return { code: typeof code === "number" ? code : 1, stdout, stderr };
  }
}

/** What a program that must succeed prints, trimmed. Throws with its error output. */
export async function outputOf(
  program: string,
  args: readonly string[],
  env?: Readonly<Record<string, string>>,
): Promise<string> {
  const { code, stdout, stderr } = await run(program, args, env);
  if (code !== 0)
    throw new Error(`${program} ${args.join(" ")} ended with ${code}:\n${stderr.slice(-4_000)}`);
  return stdout.trim();
}

export class Stack {
  readonly project = `onsale-test-${process.pid}`;
  /** Stands in for .env. */
  env: Readonly<Record<string, string>>;

  constructor(ports: readonly [number, number, number]) {
    const [api, admin, prometheus] = ports.map(String) as [string, string, string];
    this.env = {
      ONSALE_VERSION: "test",
      ONSALE_ENV: "production",
      AUTH_JWT_SECRET: SECRET,
      INTERNAL_TOKEN,
      POSTGRES_PASSWORD: "of-the-tests",
      ONSALE_PASSWORD: "of-the-tests",
      REPLICATION_PASSWORD: "of-the-tests",
      MONITOR_PASSWORD: "of-the-tests",
      READ_SIDE_PASSWORD: "of-the-tests",
      GRAFANA_PASSWORD: "of-the-tests",
      REDIS_PASSWORD: "of-the-tests",
      RABBITMQ_PASSWORD: "of-the-tests",
      API_PORT: api,
      HAPROXY_ADMIN_PORT: admin,
      PROMETHEUS_PORT: prometheus,
      K6_IMAGE,
      // All tests come from one address.
      CLIENT_REQUESTS_MAX: "100000",
      RATE_LIMIT_PER_ADDRESS: "0",
    };
  }

  static async onFreePorts(): Promise<Stack> {
    const taken = new Set<number>();
    const ports: number[] = [];
    while (ports.length < 3) {
      const port = await chooseFreePort(taken);
      taken.add(port);
      ports.push(port);
    }
    return new Stack(ports as [number, number, number]);
  }

  get apiUrl(): string {
    return `http://127.0.0.1:${this.env["API_PORT"]}`;
  }

  get haproxyAdminUrl(): string {
    return `http://127.0.0.1:${this.env["HAPROXY_ADMIN_PORT"]}`;
  }

  get prometheusUrl(): string {
    return `http://127.0.0.1:${this.env["PROMETHEUS_PORT"]}`;
  }

  /** The options that make docker compose mean this cluster; a .env of the checkout is not read. */
  get options(): string[] {
    return ["--project-name", this.project, "--env-file", "/dev/null"];
  }

  /** Runs docker compose; throws when it fails. */
  async compose(...args: string[]): Promise<string> {
    return outputOf("docker", ["compose", ...this.options, ...args], this.env);
  }

  /** Starts what does not run, and waits until it is healthy. */
  async up(...args: string[]): Promise<void> {
    await this.compose("up", "--detach", "--wait", ...args);
  }

  /** The ids of a service's containers that run. */
  async containersOf(service: string): Promise<string[]> {
    return (await this.compose("ps", "--quiet", service)).split("\n").filter((id) => id !== "");
  }

  /** The answer of `psql` as the superuser in a database's container. */
  async sql(service: string, database: string, statement: string): Promise<string> {
    return this.compose("exec", "-T", service, "psql", "-U", "postgres", "-d", database, "-Atc", statement);
  }

  /**
   * The services whose containers "up" would exchange if .env had these settings too. Those that start after such a one are
   * exchanged with it.
   */
  async wouldRecreate(settings: Readonly<Record<string, string>> = {}): Promise<string[]> {
    const up = ["compose", "--dry-run", ...this.options, "up", "--detach"];
    const said = await run("docker", up, { ...this.env, ...settings });
    if (said.code !== 0) throw new Error(said.stderr);
    const lines = `${said.stdout}\n${said.stderr}`.split("\n").filter((line) => /\bRecreate\s*$/.test(line));
    return lines
      .map((line) => line.split(`${this.project}-`)[1]?.replace(/-\d+\s.*$/, "") ?? line)
      .toSorted();
  }

  /** Removes containers, networks and volumes. */
  async remove(): Promise<void> {
    const down = ["--profile", "*", "down", "--volumes", "--remove-orphans", "--timeout", "5"];
    const { code, stderr } = await run("docker", ["compose", ...this.options, ...down], this.env);
    // Docker 20.10 may count a container of a network for ever that was once disconnected from it.
    if (code !== 0 && !stderr.includes("has active endpoints")) throw new Error(stderr.slice(-4_000));
  }
}
