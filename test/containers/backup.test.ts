/**
 * Backing up and restoring a shard of docker-compose.yml with the commands of docs/operations.md, "Backups in containers".
 * The tests run in order on one cluster.
 */
import { readFile } from "node:fs/promises";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { EventId } from "../../shared/domain/ids.ts";
import { slotOf } from "../../shared/domain/slots.ts";
import type { Event } from "../../shared/domain/events.ts";
import { Client } from "../support/running-cluster.ts";
import { eventually } from "../support/eventually.ts";
import { queryPrometheus } from "../support/prometheus.ts";
import { outputOf, ROOT, Stack } from "./compose-stack.ts";

const MOMENT = "2030-06-01T20:14:30Z";
const SETTLED_MAX_MS = 90_000;

let stack: Stack;
let client: Client;
let event: Event;
/** The commands of the runbook: archive, restore, build the replica anew. */
let blocks: readonly string[];

beforeAll(async () => {
  const runbook = await readFile(`${ROOT}/docs/operations.md`, "utf8");
  const section = runbook.split("\n### Backups in containers\n")[1]?.split("\n## ")[0] ?? "";
  blocks = [...section.matchAll(/^```sh\n(.*?)^```/gms)].map(([, block = ""]) => block);
  stack = await Stack.onFreePorts();
  await stack.compose("build", "--quiet");
  await stack.up();
  client = new Client(stack.apiUrl);
  event = await eventually("an event lies on shard-a", async () => {
    const created = await client.createEvent({ totalTickets: 1_000 });
    return slotOf(created.id as EventId) < 2048 && created;
  });
});

afterAll(async () => {
  await stack.remove();
});

test("D8 F6 F7: a shard is archived, restored to a moment in place, and followed by a new replica", async () => {
  const [archive, restore, rebuild] = blocks;
  if (archive === undefined || restore === undefined || rebuild === undefined)
    throw new Error("three blocks");
  const early = await book("early");
  await paste(archive);
  const before = [early, await book("before-1"), await book("before-2")];
  const moment = await stack.sql(
    "shard-a",
    "shard",
    `select to_char(clock_timestamp() at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')`,
  );
  const after = [await book("after-1"), await book("after-2")];
  await eventually("all of it is archived", async () => {
    const archived =
      "select flush_lsn >= pg_current_wal_flush_lsn() from pg_stat_replication where application_name = 'pg_receivewal'";
    return (await stack.sql("shard-a", "postgres", archived)) === "t";
  });
  const watched = async (query: string) => (await queryPrometheus(stack.prometheusUrl, query))[0]?.value;
  for (const [query, expected] of [
    ['pg_replication_slot_slot_is_active{slot_name="onsale_backup",server="shard-a"}', 1],
    ['onsale_backup_refused{server="shard-a"}', 0],
    ['time() - onsale_backup_base_timestamp_seconds{server="shard-a"} < bool 300', 1],
  ] as const)
    await eventually(query, async () => (await watched(query)) === expected, SETTLED_MAX_MS);
  await stack.sql("shard-a", "shard", "drop table bookings cascade");

  const said = await paste(restore.replace(MOMENT, moment));
  expect(said).toMatch(/^audit clean: 2 shards, \d+ events, 3 bookings, 3 tickets sold$/m);
  expect(said).toMatch(/^base backup /m);

  await paste(rebuild);
  for (const { id, user } of before)
    await eventually("routers find it", async () => (await client.readBooking(id, user)).status === 200);
  for (const { id, user } of after) expect((await client.readBooking(id, user)).status).toBe(404);
  await followsOn();
});

test("D8 F7: a replica that copies a recovery target with its primary ignores it", async () => {
  await stack.sql("shard-a", "postgres", "alter system set recovery_target_time = '2020-01-01 00:00:00+00'");
  await paste(blocks[2] ?? "");
  expect(await stack.sql("shard-a-replica", "postgres", "show recovery_target_time")).toBe("");
  await followsOn();
});

test("D8: every archive runs under bounds, and one that is killed comes back", async () => {
  for (const service of ["backup-a", "backup-b", "backup-catalog"]) {
    const [container = ""] = await stack.containersOf(service);
    const format = "{{.HostConfig.RestartPolicy.Name}} {{.HostConfig.Memory}} {{.HostConfig.NanoCpus}}";
    expect([service, await outputOf("docker", ["inspect", "--format", format, container])]).toEqual([
      service,
      "unless-stopped 1073741824 2000000000",
    ]);
    await outputOf("docker", ["exec", container, "bash", "-c", "kill -9 -1"]).catch(() => undefined);
    const server = service === "backup-catalog" ? "catalog" : service.replace("backup", "shard");
    await eventually(
      `${server} is archived again`,
      async () => {
        const streaming = "select count(*) from pg_stat_replication where application_name = 'pg_receivewal'";
        const restarts = await outputOf("docker", ["inspect", "--format", "{{.RestartCount}}", container]);
        return restarts !== "0" && (await stack.sql(server, "postgres", streaming)) === "1";
      },
      SETTLED_MAX_MS,
    );
  }
});

/** Runs a block of the runbook as it stands there, against this cluster. Answers what it prints. */
async function paste(block: string): Promise<string> {
  const lines = block.replaceAll("docker compose", `docker compose ${stack.options.join(" ")}`);
  return outputOf("bash", ["-euo", "pipefail", "-c", lines], stack.env);
}

async function book(user: string): Promise<{ id: string; user: string }> {
  const { status, body } = await client.book(event.id, user);
  expect([user, status]).toEqual([user, 201]);
  return { id: body.id, user };
}

/** The shard sells, and its replica has what was sold and stays a replica. */
async function followsOn(): Promise<void> {
  const user = `follows-${performance.now()}`;
  const booked = await eventually(
    "the shard sells",
    async () => {
      const { status, body } = await client.book(event.id, user);
      return status === 201 && body;
    },
    SETTLED_MAX_MS,
  );
  const found = `select count(*) from bookings where id = '${booked.id}'`;
  await eventually(
    "the replica has it",
    async () => (await stack.sql("shard-a-replica", "shard", found)) === "1",
    SETTLED_MAX_MS,
  );
  expect(await stack.sql("shard-a-replica", "shard", "select pg_is_in_recovery()")).toBe("t");
  const state = "select state from pg_stat_replication where application_name = 'replica'";
  expect(await stack.sql("shard-a", "shard", state)).toBe("streaming");
}
