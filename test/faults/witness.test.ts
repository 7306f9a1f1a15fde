/** The witness's load on a small cluster, so that each run of the tests has its verdict; `npm run faults` has the rest. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { expect, inject, test } from "vitest";
import { audit } from "../../audit/audit.ts";
import { slotOf } from "../../shared/domain/slots.ts";
import type { EventId } from "../../shared/domain/ids.ts";
import { SECRET, startTestCluster, testRedisUrl } from "../support/running-cluster.ts";
import { administer, connectTo } from "../support/databases.ts";
import { start } from "../support/run.ts";
import { check } from "./witness/check.ts";
import { Client } from "./witness/client.ts";
import { factsFromApi, factsFromDatabases } from "./witness/facts.ts";
import { failuresOf, outcomesIn } from "./witness/figures.ts";
import { Load } from "./witness/load.ts";
import { readLog, WitnessLog } from "./witness/log.ts";

const SECONDS = 4;
const PROMISES = { staleMs: 1_000, oneRouterEach: true };

test("F10 F1 F3 H4: while one shard's backends are killed again and again, every promise is kept, the other shard fails nobody, and a row that vanishes is missed", async () => {
  const seed = Number(process.env["TEST_SEED"] ?? Date.now() % 2 ** 31);
  console.info(`TEST_SEED=${seed}`);
  const directory = mkdtempSync(join(tmpdir(), "onsale-witness-"));
  await using cluster = await startTestCluster({ routers: 2, redisUrl: testRedisUrl() });
  const log = new WitnessLog(join(directory, "log"), 100_000);
  try {
    const client = new Client(
      cluster.routers.map(({ url }) => url),
      SECRET,
      log,
    );
    const labels = ["whole", "harmed"];
    const load = new Load({
      client,
      log,
      seed,
      labels,
      labelOf: (id) => labels[slotOf(id as EventId) >> 11] ?? "",
      requestsPerSecond: 1_000,
    });
    const harmed = cluster.shards[1]?.databaseUrl ?? "";
    const name = new URL(harmed).pathname.slice(1);
    const busy = `select pg_terminate_backend(pid) from pg_stat_activity where datname = '${name}' and state = 'active'`;

    await load.start();
    const until = performance.now() + SECONDS * 1_000;
    while (performance.now() < until) {
      await administer(inject("postgresUrl"), busy);
      await sleep(20);
    }
    await load.stop();
    expect(await load.settle(10_000)).toBe(0);

    const entries = readLog(log.file);
    const outcomes = outcomesIn(entries);
    expect(outcomes.length).toBeGreaterThan(SECONDS * 100);
    expect(failuresOf(outcomes.filter(({ label }) => label === "whole"))).toEqual({});
    expect(outcomes.filter(({ failure }) => failure?.startsWith("500"))).toEqual([]);
    const facts = await factsFromDatabases(cluster.catalogUrl, entries);
    expect(check(entries, facts, PROMISES)).toEqual([]);
    expect((await audit(cluster.catalogUrl)).violations).toEqual([]);

    const target = ["--url", client.urls.join(","), "--secret", SECRET, "--catalog", cluster.catalogUrl];
    const run = ["--seconds", "1", "--log", join(directory, "of the program")];
    await using program = start("test/faults/witness/main.ts", {}, target.concat(run));
    expect(await program.exited).toMatchObject({
      code: 0,
      stdout: expect.stringContaining("every promise kept") as string,
    });

    using connection = connectTo(harmed);
    const [gone] = await connection.run<{ id: string }>(
      "delete from bookings where id = (select id from bookings where status = 'confirmed' limit 1) returning id",
    );
    const without = await factsFromDatabases(cluster.catalogUrl, entries);
    expect(check(entries, without, PROMISES)).toContainEqual({
      promise: "kept",
      message: expect.stringContaining(gone?.id ?? "no row") as string,
    });
    const seen = await factsFromApi(client, entries);
    expect(check(entries, seen, PROMISES).map(({ promise }) => promise)).toContain("kept");
  } finally {
    log.close();
    rmSync(directory, { recursive: true });
  }
});
