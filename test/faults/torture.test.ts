/**
 * The door to PostgreSQL under torture: connections are cut, reset, stalled and slowed at random bytes, and backends are
 * ended at random moments, while statements and transactions run whose answers can all be told apart.
 *
 * The plans come from a seed that is printed. The same plans again, or more of them:
 *   TEST_SEED=<seed> TORTURE_ROUNDS=5000 npx vitest run test/faults/torture.test.ts
 */
import { setTimeout as sleep } from "node:timers/promises";
import { expect, test } from "vitest";
import { seededRandom } from "../../bench/random.ts";
import type { Connection } from "../../shared/database/connection.ts";
import { Database } from "../../shared/database/database.ts";
import { connectTo, createDatabase } from "../support/databases.ts";
import { eventually } from "../support/eventually.ts";
import { HARMLESS, type Plan, startHarmfulProxy } from "./torture/harmful-proxy.ts";
import { Ledger } from "./torture/ledger.ts";
import { CONNECT_MS, type Draw, runStatement, runTransaction, SCHEMA, STATEMENT_MS } from "./torture/work.ts";

const SEED = Number(process.env["TEST_SEED"] ?? Date.now() % 2 ** 31);
const ROUNDS = Number(process.env["TORTURE_ROUNDS"] ?? 90);
const ROUNDS_AT_ONCE = 6;
const CALLERS = 6;
const STATEMENTS_PER_CALLER = 3;
const CONNECTIONS = 2;

const OTHER_BACKENDS = `
  select from pg_stat_activity
  where datname = current_database() and backend_type = 'client backend' and pid <> pg_backend_pid()`;

test(
  "F1: no fault of a connection loses, doubles, mixes up or hangs a statement, or leaves anything behind",
  { timeout: 60_000 + ROUNDS * 1_000 },
  async () => {
    console.log(`${ROUNDS} rounds, TEST_SEED=${SEED}`);
    await using created = await createDatabase("catalog");
    using admin = connectTo(created.url);
    await admin.script(SCHEMA);
    const ledger = new Ledger();
    using _ = listenForWhatNobodyCaught(ledger);
    const sockets = openSockets();

    for (let number = 0; number < ROUNDS; number += ROUNDS_AT_ONCE)
      await Promise.all(
        Array.from({ length: ROUNDS_AT_ONCE }, (_unused, offset) =>
          round(number + offset, created.url, admin, ledger),
        ),
      );

    await ledger.compareWith(admin);
    console.log(ledger.tally);
    expect({ seed: SEED, problems: ledger.kindsOfProblems }).toEqual({ seed: SEED, problems: [] });
    expect(ledger.acknowledged.size).toBeGreaterThan(ROUNDS);
    await eventually("every backend has ended", async () => (await admin.run(OTHER_BACKENDS)).length === 0);
    await eventually("every socket has closed", () => openSockets() <= sockets);
  },
);

async function round(number: number, url: string, admin: Connection, ledger: Ledger): Promise<void> {
  const name = `torture-${number}`;
  const draws = (purpose: number) => drawFrom(seededRandom(SEED + number * 1_000 + purpose));
  const planning = draws(0);
  const isHarmful = number % 4 !== 0;
  let isOver = false;
  await using proxy = await startHarmfulProxy(url, () => (isHarmful && !isOver ? plan(planning) : HARMLESS));
  const database = new Database({
    url: proxy.url,
    applicationName: name,
    connectionsMax: CONNECTIONS,
    waitersMax: 50,
    connectTimeoutMs: CONNECT_MS,
    statementTimeoutMs: STATEMENT_MS,
    lockTimeoutMs: STATEMENT_MS,
  });
  const killer = number % 2 === 0 ? endBackends(name, admin, draws(1), () => isOver) : undefined;
  await Promise.all([
    runTransaction(proxy.url, name, ledger),
    ...Array.from({ length: CALLERS }, async (_, caller) => {
      const draw = draws(2 + caller);
      for (let n = 0; n < STATEMENTS_PER_CALLER; n += 1) await runStatement(database, draw, ledger);
    }),
  ]);
  isOver = true;
  await killer;
  await expectUsable(database, ledger);
  await expectClosing(database, ledger);
  await eventually("no connection is left", () => proxy.open === 0);
  for (const [harm, times] of Object.entries(proxy.done)) ledger.count(`harm: ${harm}`, times);
}

/** Bytes of each side up to which a harm waits: during the login, soon after it, and in the middle of large results. */
const REACHES = { client: [300, 1_000, 3_000], server: [600, 3_000, 30_000, 200_000] };

function plan(draw: Draw): Plan {
  const from = draw(2) === 0 ? "client" : "server";
  const afterBytes = draw(REACHES[from][draw(REACHES[from].length)] ?? 0);
  // A stall costs its timeouts, so there are fewer of them.
  const harm = (["none", "end", "reset", "reset", "slow"] as const)[draw(5)] ?? "none";
  return { harm: draw(10) === 0 ? "stall" : harm, from, afterBytes };
}

/** Ends half of a round's backends now and then. */
async function endBackends(
  name: string,
  admin: Connection,
  draw: Draw,
  isOver: () => boolean,
): Promise<void> {
  for (let times = 1 + draw(3); times > 0 && !isOver(); times -= 1) {
    await sleep(1 + draw(40));
    await inTurn(() =>
      admin.run(
        "select pg_terminate_backend(pid) from pg_stat_activity where application_name = $1 and random() < 0.5",
        [name],
      ),
    );
  }
}

let last: Promise<unknown> = Promise.resolve();
/** The admin has one connection, and rounds run at once. */
async function inTurn(task: () => Promise<unknown>): Promise<void> {
  last = last.then(task);
  await last;
}

/** A pool recovers by itself: each statement that fails takes a harmed connection with it. */
async function expectUsable(database: Database, ledger: Ledger): Promise<void> {
  const { busy, waiting } = database.pool;
  ledger.check(busy === 0 && waiting === 0, `after the round ${busy} are busy and ${waiting} wait`);
  await eventually("the pool can be used again", () =>
    database.query({ name: "usable", text: "select 1" }).then(
      () => true,
      () => false,
    ),
  );
}

async function expectClosing(database: Database, ledger: Ledger): Promise<void> {
  const began = performance.now();
  await database.close();
  const took = Math.round(performance.now() - began);
  ledger.check(took < 3_500, `close() took ${took} ms`);
  const { busy, idle } = database.pool;
  ledger.check(busy + idle === 0, `after close() ${busy} are busy and ${idle} idle`);
}

function drawFrom(random: () => number): Draw {
  return (below) => Math.floor(random() * below);
}

function openSockets(): number {
  return process.getActiveResourcesInfo().filter((name) => name === "TCPSocketWrap").length;
}

/** Either would end a process that is not a test. */
function listenForWhatNobodyCaught(ledger: Ledger): Disposable {
  const note = (error: unknown) => {
    ledger.check(false, `nobody caught ${error instanceof Error ? error.stack : String(error)}`);
  };
  process.on("uncaughtException", note).on("unhandledRejection", note);
  return {
    [Symbol.dispose]: () => void process.off("uncaughtException", note).off("unhandledRejection", note),
  };
}
