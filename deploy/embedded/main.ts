/**
 * `npm start`: the whole cluster on this machine. SIGTERM and Ctrl-C stop everything it started and keep the data.
 * A start that cannot succeed says why on one line of stderr and leaves nothing running.
 */
import { once } from "node:events";
import { ConfigError } from "../../shared/process/config.ts";
import { startCluster } from "./start-cluster.ts";
import { openDataDir } from "./data-dir.ts";
import { type Access, demoEvent, guide } from "./guide.ts";
import { readSettings } from "./settings.ts";
import { reasonOf, StartError } from "./start-error.ts";

const startedAt = performance.now();
const say = (line: string) => void process.stdout.write(`${line}\n`);
const step = (line: string) =>
  say(`${((performance.now() - startedAt) / 1000).toFixed(1).padStart(5)} s  ${line}`);

const stop = new AbortController();
// One Ctrl-C brings several signals: the terminal's, and the one that npm passes on.
for (const signal of ["SIGTERM", "SIGINT", "SIGHUP"] as const) process.on(signal, () => stop.abort());
// A shell between npm and this process may die of npm's signal and not pass it on. Then a changed parent pid is the only sign.
const parent = process.ppid;
if (process.env["npm_lifecycle_event"] === "start") {
  setInterval(() => process.ppid === parent || stop.abort(), 500).unref();
}
// A closed pipe must not end this process and leave databases running.
for (const stream of [process.stdout, process.stderr]) stream.on("error", () => {});
process.on("uncaughtException", (error) => fail(error));

try {
  await run();
} catch (error) {
  if (!stop.signal.aborted) fail(error);
}
if (process.exitCode !== 1) say("stopped; the data is kept");
process.exit();

/** Returns after a signal, when everything has stopped. */
async function run(): Promise<void> {
  const settings = readSettings(process.env);
  using dataDir = openDataDir(settings.DATA_DIR);
  await using running = new AsyncDisposableStack();
  const options = { settings, env: process.env, dataDir, signal: stop.signal, say, step };
  const { url: routerUrl, adminUrl, amqpUrl, readSideUrl } = await startCluster(options, running);

  const access: Access = { routerUrl, secret: settings.AUTH_JWT_SECRET ?? dataDir.state.jwtSecret };
  const eventId = await demoEvent(access, dataDir).catch((error: unknown) => {
    say(`the demo event could not be made: ${reasonOf(error)}`);
    return undefined;
  });
  say(await guide(access, { adminUrl, dataDir: dataDir.path, amqpUrl, readSideUrl, eventId }));

  if (!stop.signal.aborted) await once(stop.signal, "abort");
  say("stopping…");
}

/** Says why on one line, stops everything, and sets exit code 1. A bug prints its stack instead. */
function fail(error: unknown): void {
  const expected = error instanceof StartError || error instanceof ConfigError;
  process.stderr.write(`onsale: ${expected || !(error instanceof Error) ? reasonOf(error) : error.stack}\n`);
  process.exitCode = 1;
  stop.abort();
}
