/**
 * `npm run witness`: a load client that writes down every request and every answer, and then compares them with what the
 * cluster has. Exit 0 when the cluster kept every promise, else 1 with each that it broke. docs/reliability.md explains it.
 */
import { existsSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";
import { z } from "zod";
import { audit } from "../../../audit/audit.ts";
import { readClusterFile, readState } from "../../../bench/cluster-file.ts";
import { postgresUrl } from "../../../shared/database/url.ts";
import { integer, readConfig, secret, urlListOf } from "../../../shared/process/config.ts";
import { check } from "./check.ts";
import { Client } from "./client.ts";
import { factsFromApi, factsFromDatabases } from "./facts.ts";
import { failuresOf, outcomesIn, quantile } from "./figures.ts";
import { Load } from "./load.ts";
import { readLog, WitnessLog } from "./log.ts";

const USAGE = `use: npm run witness -- [OPTION …]     (or the variable in brackets)
  --url URL[,URL…]      routers, or one balancer [WITNESS_URL]; by default the cluster of npm start
  --balanced true       several routers may answer behind one URL [WITNESS_BALANCED]
  --secret SECRET       signs the tokens [AUTH_JWT_SECRET]
  --catalog URL         compares with the databases too [CATALOG_URL]; without it with the API alone
  --data-dir PATH       where npm start keeps its data, .onsale [DATA_DIR]
  --seconds N           how long, 20 [WITNESS_SECONDS]
  --rate N              requests a second, 100 [WITNESS_RATE]
  --stale-ms N          how old a read may be, 1000 [WITNESS_STALE_MS]
  --seed N              the same choices again [WITNESS_SEED]
  --log FILE            what was seen; it must not exist yet [WITNESS_LOG]
`;
const ENTRIES_MAX = 2_000_000;
/** Longer than the witness's holds, and the sweep that ends them. */
const HOLDS_END_MS = 8_000;
const SETTLE_MAX_MS = 60_000;

const settings = z.object({
  WITNESS_URL: urlListOf("http", "https").optional(),
  WITNESS_BALANCED: z.enum(["true", "false"]).default("false"),
  AUTH_JWT_SECRET: secret.optional(),
  CATALOG_URL: postgresUrl.optional(),
  DATA_DIR: z.string().default(".onsale"),
  WITNESS_SECONDS: integer({ min: 1, max: 86_400, default: 20 }),
  WITNESS_RATE: integer({ min: 10, max: 5_000, default: 100 }),
  WITNESS_STALE_MS: integer({ min: 100, max: 60_000, default: 1_000 }),
  WITNESS_SEED: integer({ min: 0, max: 2 ** 31, default: Math.floor(Math.random() * 2 ** 31) }),
  WITNESS_LOG: z.string().optional(),
});
const VARIABLES = {
  url: "WITNESS_URL",
  balanced: "WITNESS_BALANCED",
  secret: "AUTH_JWT_SECRET",
  catalog: "CATALOG_URL",
  "data-dir": "DATA_DIR",
  seconds: "WITNESS_SECONDS",
  rate: "WITNESS_RATE",
  "stale-ms": "WITNESS_STALE_MS",
  seed: "WITNESS_SEED",
  log: "WITNESS_LOG",
} as const;

try {
  await main();
} catch (error) {
  process.stderr.write(`witness: ${error instanceof Error ? error.message : String(error)}\n`);
  process.exitCode = 1;
}

async function main(): Promise<void> {
  const names = Object.keys(VARIABLES) as (keyof typeof VARIABLES)[];
  const strings = Object.fromEntries(names.map((name) => [name, { type: "string" } as const]));
  const { values } = parseArgs({ options: { ...strings, help: { type: "boolean", short: "h" } } as const });
  if (values.help === true) return void process.stdout.write(USAGE);
  const given: Readonly<Record<string, unknown>> = values;
  const options = Object.fromEntries(
    names.flatMap((name) => (typeof given[name] === "string" ? [[VARIABLES[name], given[name]]] : [])),
  );
  const config = readConfig(settings, { ...process.env, ...options });
  const { urls, secret: key, catalogUrl } = target(config);
  const seed = config.WITNESS_SEED;
  const file = config.WITNESS_LOG ?? `witness-${seed}.log`;
  if (existsSync(file)) throw new Error(`${file} exists already: the log of another run`);
  const log = new WitnessLog(file, ENTRIES_MAX);
  const client = new Client(urls, key, log);
  const load = new Load({
    client,
    log,
    seed,
    labels: ["all"],
    labelOf: () => "all",
    requestsPerSecond: config.WITNESS_RATE,
  });
  process.stdout.write(`seed ${seed}, log ${file}: ${config.WITNESS_SECONDS} s at ${urls.join(", ")}\n`);

  await load.start();
  await sleep(config.WITNESS_SECONDS * 1_000);
  await load.stop();
  const unsettled = await load.settle(SETTLE_MAX_MS);
  const outcomes = outcomesIn(readLog(file));
  // The API answers one question after the other, so nothing may change meanwhile.
  if (catalogUrl === undefined) await sleep(HOLDS_END_MS);
  const violations = catalogUrl === undefined ? [] : (await audit(catalogUrl)).violations;
  const facts = await (catalogUrl === undefined
    ? factsFromApi(client, readLog(file))
    : factsFromDatabases(catalogUrl, readLog(file)));
  log.close();
  const promises = { staleMs: config.WITNESS_STALE_MS, oneRouterEach: config.WITNESS_BALANCED === "false" };
  const problems = check(readLog(file), facts, promises);

  for (const { promise, message } of problems) process.stdout.write(`${promise}: ${message}\n`);
  for (const violation of violations) process.stdout.write(`audit: ${JSON.stringify(violation)}\n`);
  const failures = Object.entries(failuresOf(outcomes)).map(([reason, times]) => `${times} × ${reason}`);
  const broken = problems.length + violations.length;
  process.stdout.write(
    [
      `${outcomes.length} requests, p50 ${quantile(outcomes, 0.5)} ms, p99 ${quantile(outcomes, 0.99)} ms`,
      `failed: ${failures.length === 0 ? "none" : failures.join(", ")}`,
      `${facts.events.size} events, ${facts.rows.length} bookings, compared with ${facts.complete ? "the databases" : "the API"}`,
      ...(unsettled === 0
        ? []
        : [`${unsettled} requests have no outcome even after ${SETTLE_MAX_MS / 1_000} s`]),
      broken === 0 && unsettled === 0 ? "every promise kept" : `${broken} promises broken`,
      "",
    ].join("\n"),
  );
  process.exitCode = broken === 0 && unsettled === 0 ? 0 : 1;
}

/** Where to send the load: as told, else the cluster that `npm start` runs from DATA_DIR. */
function target(config: z.infer<typeof settings>): {
  urls: readonly string[];
  secret: string;
  catalogUrl: string | undefined;
} {
  const { WITNESS_URL, AUTH_JWT_SECRET, CATALOG_URL, DATA_DIR } = config;
  if (WITNESS_URL !== undefined) {
    if (AUTH_JWT_SECRET === undefined)
      throw new Error("give the secret that signs tokens: --secret, AUTH_JWT_SECRET");
    return { urls: WITNESS_URL, secret: AUTH_JWT_SECRET, catalogUrl: CATALOG_URL };
  }
  if (!existsSync(`${DATA_DIR}/cluster.json`))
    throw new Error(`give --url, or run npm start first (there is no ${DATA_DIR}/cluster.json)`);
  const { router, catalogUrl } = readClusterFile(DATA_DIR);
  const key = AUTH_JWT_SECRET ?? readState(DATA_DIR).jwtSecret;
  if (key === undefined) throw new Error(`DATA_DIR ${DATA_DIR} holds no secret: give --secret`);
  return { urls: [router.url], secret: key, catalogUrl: CATALOG_URL ?? catalogUrl };
}
