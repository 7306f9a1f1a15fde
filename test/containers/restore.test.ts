/**
 * A shard on postgres:17 is backed up with the scripts of deploy/backup, ruined, and restored to a moment between two
 * bookings, and then to a later one, beside a shard that goes on. PostgreSQL's own tools run where that image has them.
 */
import { GenericContainer, type StartedTestContainer, Wait } from "testcontainers";
import { afterAll, beforeAll, expect, test } from "vitest";
import { moveEmptySlot } from "../../migrations/shards.ts";
import { migrate } from "../../migrations/runner.ts";
import type { EventId } from "../../shared/domain/ids.ts";
import { SLOT_COUNT, type Slot, slotOf } from "../../shared/domain/slots.ts";
import type { Event } from "../../shared/domain/events.ts";
import { startTestCluster, type TestCluster, testRedisUrl } from "../support/running-cluster.ts";
import { type Obstacle, obstacleTo } from "../support/containers.ts";
import { administer } from "../support/databases.ts";
import { eventually } from "../support/eventually.ts";
import { start } from "../support/run.ts";

const POSTGRES = "postgres:17";
const PASSWORD = "throw-away";
const SCRIPTS = "/opt/onsale/backup";
const RESTORED = "/var/lib/postgresql/restored";
const RESTORED_LATER = "/var/lib/postgresql/restored-later";
/** An entry of before may live in Redis for five seconds (C4), and what a router read there for another one. */
const CACHE_FOLLOWS_MS = 7_000;
const RESTORED_PORT = 5433;
const REPLICA = "/var/lib/postgresql/replica";
const REPLICA_PORT = 5434;
const ENVIRONMENT = {
  DATABASE_URL: `postgres://onsale:${PASSWORD}@127.0.0.1/shard_template`,
  BACKUP_DIR: "/var/lib/postgresql/backup",
  BACKUP_METRICS: "/tmp",
  PGPASSWORD: PASSWORD,
};

let obstacle: Obstacle;
let postgres: StartedTestContainer;
let cluster: TestCluster;

beforeAll(async () => {
  obstacle = await obstacleTo([POSTGRES]);
  if (obstacle !== undefined) {
    console.warn(`SKIPPED: backing up and restoring a shard (${obstacle})`);
    return;
  }
  postgres = await new GenericContainer(POSTGRES)
    .withEnvironment({ POSTGRES_USER: "onsale", POSTGRES_PASSWORD: PASSWORD, POSTGRES_DB: "shard_template" })
    .withCopyDirectoriesToContainer([{ source: "deploy/backup", target: SCRIPTS, mode: 0o755 }])
    .withExposedPorts(5432, RESTORED_PORT)
    .withWaitStrategy(
      Wait.forSuccessfulCommand("pg_isready --host=127.0.0.1 --username=onsale --dbname=shard_template"),
    )
    .start();
  await migrate(serverUrl(5432, "shard_template"), "shard");
  cluster = await startTestCluster({
    shards: 2,
    redisUrl: testRedisUrl(),
    serverOf: (shard) => (shard === 0 ? serverUrl(5432) : undefined),
  });
}, 180_000);

afterAll(async () => {
  await cluster?.[Symbol.asyncDispose]();
  await postgres?.stop();
});

test("F6 F7 B9 C2 W7: a shard goes back to a moment, exactly, and the rest of the cluster notices nothing", async ({
  skip,
}) => {
  skip(obstacle !== undefined, `SKIPPED: ${obstacle}`);
  const [shard, other] = cluster.shards;
  if (shard === undefined || other === undefined) throw new Error("two shards");
  const client = cluster.client();
  const [popular, scarce, elsewhere] = [
    await eventOn(0, { totalTickets: 100 }),
    await eventOn(0, { totalTickets: 2 }),
    await eventOn(1, { totalTickets: 100 }),
  ];
  const book = async ({ id }: Event, user: string) => {
    const { status, body } = await client.book(id, user);
    return { status, user, id: body.id };
  };

  await script("archive-wal.sh", "", "> /tmp/archive.log 2>&1 &");
  await eventually("the log is archived", async () => isArchived());
  const before = [await book(popular, "before-base"), await book(scarce, "before-base")];
  expect(await script("base-backup.sh")).toMatch(/^base backup \d{8}T\d{6}\.\d{6}Z\n$/);
  before.push(await book(popular, "before-1"), await book(popular, "before-2"));
  const moment = await sql(NOW);
  const eventsThen = events[0];

  const after = [await book(popular, "after-1")];
  const laterMoment = await sql(NOW);
  after.push(await book(popular, "after-2"), await book(scarce, "after-1"));
  expect([...before, ...after].map(({ status }) => status)).toEqual(Array(7).fill(201));
  expect((await client.book(scarce.id, "too-late")).body.code).toBe("sold_out");
  const created = await eventOn(0, { totalTickets: 5 });
  const [given, taken] = [emptySlotOf(0), emptySlotOf(1)];
  await moveEmptySlot(cluster.catalogUrl, given, other.id);
  await moveEmptySlot(cluster.catalogUrl, taken, shard.id);
  const seen = new Map<string, Event>();
  for (const { id } of [popular, scarce]) seen.set(id, await client.readEvent(id));
  await eventually("all of it is archived", async () => isArchived());
  // The archiver replays nothing, so PostgreSQL calls it ever further behind.
  const behind = "bool_and(replay_lag > '1 s') from pg_stat_replication";
  await eventually("a second later", async () => (await sql(`select ${behind}`)) === "t");
  const metrics = await (await fetch(`${cluster.nodes[0]?.adminUrl}/metrics`)).text();
  expect(metrics).toMatch(/^onsale_db_replica_lag_seconds 0$/m);

  // Somebody drops a table.
  await cluster.nodes.shift()?.close();
  await administer(shard.databaseUrl, "drop table bookings cascade");
  expect((await client.book(popular.id, "nobody")).body.code).toBe("shard_unavailable");
  expect((await client.book(elsewhere.id, "meanwhile")).status).toBe(201);

  expect(await script("restore.sh", `${RESTORED} ${moment}`)).toContain("replays the log up to");
  await script("restore.sh", RESTORED).then(
    () => expect.unreachable("a second restore into the same directory"),
    (error: Error) => expect(error.message).toContain("is not empty"),
  );
  const databaseUrl = serverUrl(RESTORED_PORT, new URL(shard.databaseUrl).pathname.slice(1));
  const env = { CATALOG_URL: cluster.catalogUrl };
  const startOn = async (directory: string) => {
    await startServer(directory, RESTORED_PORT);
    await eventually(
      "the log is replayed",
      async () => (await sql("select pg_is_in_recovery()", RESTORED_PORT)) === "f",
    );
    expect(await run("migrations/main.ts", { ...env, SHARD_URLS: `${shard.id}=${databaseUrl}` })).toContain(
      `${shard.id} is up to date`,
    );
    expect(await run("migrations/after-restore.ts", env, ["--shard", shard.id])).toBe(
      `${shard.id} owns what the catalog says, and its ${eventsThen} events have new versions\n`,
    );
    await cluster.addNode({ id: shard.id, databaseUrl });
  };
  await startOn(RESTORED);
  const restoredServer = ENVIRONMENT.DATABASE_URL.replace("127.0.0.1", `127.0.0.1:${RESTORED_PORT}`);
  const own = `DATABASE_URL=${restoredServer} BACKUP_DIR=/tmp/own ${SCRIPTS}/archive-wal.sh`;
  await asPostgres(`${own} > /tmp/own.log 2>&1 &`);

  expect(await run("audit/main.ts", env)).toBe(
    `audit clean: 2 shards, ${eventsThen + events[1]} events, 5 bookings, 5 tickets sold\n`,
  );
  await eventually(
    "routers have found the new node",
    async () => (await client.readBooking(before[0]?.id ?? "", "before-base")).status === 200,
  );
  for (const { id, user } of before) expect((await client.readBooking(id, user)).status).toBe(200);
  for (const { id, user } of after) expect((await client.readBooking(id, user)).status).toBe(404);
  // The router was not restarted, and Redis not flushed.
  for (const [event, availableTickets] of [
    [popular, 97],
    [scarce, 1],
  ] as const) {
    const now = await eventually(
      "the cache follows",
      async () => {
        const read = await client.readEvent(event.id);
        return read.availableTickets === availableTickets && read;
      },
      CACHE_FOLLOWS_MS,
    );
    expect(now.version).toBeGreaterThan(seen.get(event.id)?.version ?? Number.POSITIVE_INFINITY);
  }
  expect((await book(scarce, "second-chance")).status).toBe(201);
  expect((await client.readEvent(scarce.id)).availableTickets).toBe(0);
  await eventually(
    "the event that was created later is gone",
    async () => (await client.send("GET", `/v1/events/${created.id}`)).status === 404,
  );
  expect(await run("audit/main.ts", env)).toContain("audit clean");

  // The archive goes on under its supervisor, and finds the restored server in the old one's place.
  for (const writer of ["archive-wal.sh", "base-backup.sh"]) {
    const answer = await asPostgres(
      `DATABASE_URL=${restoredServer} timeout 10 ${SCRIPTS}/${writer} 2>&1 || echo "ended with $?"`,
    );
    expect(answer).toMatch(
      /^\S+: \S+ holds another server or timeline .* use a new BACKUP_DIR\nended with 1\n$/,
    );
    expect(await asPostgres(`cat ${ENVIRONMENT.BACKUP_METRICS}/*_refused.prom`)).toContain(
      `onsale_backup_refused{server="${ENVIRONMENT.BACKUP_DIR.split("/").at(-1)}"} 1\n`,
    );
  }

  // A replica of the restored server goes on following it.
  await asPostgres(
    `pg_basebackup --dbname=${restoredServer} --pgdata=${REPLICA} --checkpoint=fast --write-recovery-conf`,
  );
  await startServer(REPLICA, REPLICA_PORT);
  expect((await book(popular, "replicated")).status).toBe(201);
  const written = await sql("select pg_current_wal_flush_lsn()", RESTORED_PORT);
  await eventually(
    "the replica has replayed it",
    async () => (await sql(`select pg_last_wal_replay_lsn() >= '${written}'`, REPLICA_PORT)) === "t",
  );
  expect(await sql("select pg_is_in_recovery()", REPLICA_PORT)).toBe("t");
  const state = "select state from pg_stat_replication where application_name = 'walreceiver'";
  expect(await sql(state, RESTORED_PORT)).toBe("streaming");
  expect(
    await asPostgres(`grep -cE '^(restore_command|recovery_)' ${RESTORED}/postgresql.auto.conf || true`),
  ).toBe("0\n");

  // Somebody puts both archives into one directory: it does not lead astray.
  await eventually("the new timeline is archived", async () => isArchived(RESTORED_PORT));
  await asPostgres(`cp /tmp/own/wal/* ${ENVIRONMENT.BACKUP_DIR}/wal`);

  // It was too early. The same base backup leads to a later moment, whatever was done since.
  await cluster.nodes.pop()?.close();
  await asPostgres(`pg_ctl -D ${REPLICA} -m fast -w stop && pg_ctl -D ${RESTORED} -m fast -w stop`);
  await script("restore.sh", `${RESTORED_LATER} ${laterMoment}`);
  await startOn(RESTORED_LATER);
  const [kept, ...gone] = after;
  if (kept === undefined) throw new Error("one was booked before the later moment");
  expect(await run("audit/main.ts", env)).toBe(
    `audit clean: 2 shards, ${eventsThen + events[1]} events, 6 bookings, 6 tickets sold\n`,
  );
  await eventually(
    "routers have found the new node",
    async () => (await client.readBooking(kept.id, kept.user)).status === 200,
  );
  for (const { id, user } of before) expect((await client.readBooking(id, user)).status).toBe(200);
  for (const { id, user } of gone) expect((await client.readBooking(id, user)).status).toBe(404);
  // Nobody takes one restored server for the other.
  expect(await sql("select left(pg_walfile_name(pg_current_wal_lsn()), 8)", RESTORED_PORT)).toBe("00000003");
}, 240_000);

const NOW = `select to_char(clock_timestamp() at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')`;

const serverUrl = (port: number, database = "") =>
  `postgres://onsale:${PASSWORD}@${postgres.getHost()}:${postgres.getMappedPort(port)}/${database}`;

/** How many events each shard was given, and the slots that they are in. */
const events: [number, number] = [0, 0];
const used = new Set<number>();

const homeOf = (slot: number): 0 | 1 => (slot < SLOT_COUNT / 2 ? 0 : 1);

/** An event on the given shard: slots are dealt in halves, and a new event's is random. */
async function eventOn(shard: 0 | 1, fields: Record<string, unknown>): Promise<Event> {
  return eventually("an event falls on the shard", async () => {
    const event = await cluster.client().createEvent(fields);
    const slot = slotOf(event.id as EventId);
    used.add(slot);
    events[homeOf(slot)] += 1;
    return homeOf(slot) === shard && event;
  });
}

function emptySlotOf(shard: 0 | 1): Slot {
  let slot = shard === 0 ? 0 : SLOT_COUNT / 2;
  while (used.has(slot)) slot += 1;
  return slot as Slot;
}

/** Runs one of the scripts in the container. Throws with what it said when it fails. */
async function script(name: string, args = "", more = ""): Promise<string> {
  return asPostgres(`${SCRIPTS}/${name} ${args} ${more}`);
}

async function asPostgres(command: string): Promise<string> {
  const options = { user: "postgres", env: ENVIRONMENT };
  const { exitCode, stdout, output } = await postgres.exec(["bash", "-c", command], options);
  if (exitCode !== 0) throw new Error(`${command}: exit code ${exitCode}, ${output}`);
  return stdout;
}

/** Starts a second PostgreSQL in the container. */
async function startServer(directory: string, port: number): Promise<void> {
  await asPostgres(
    `pg_ctl -D ${directory} -o '-p ${port} -c listen_addresses=*' -l ${directory}.log -w start`,
  );
}

/** The one value that the statement selects. */
async function sql(statement: string, port = 5432): Promise<string> {
  const psql = `psql -h 127.0.0.1 -p ${port} -U onsale -d shard_template -At`;
  return (await asPostgres(`${psql} <<< ${JSON.stringify(statement)}`)).trim();
}

async function isArchived(port?: number): Promise<boolean> {
  const archived = "bool_or(flush_lsn >= pg_current_wal_flush_lsn())";
  const receivers = "pg_stat_replication where application_name = 'pg_receivewal'";
  return (await sql(`select ${archived} from ${receivers}`, port)) === "t";
}

/** What one of the project's programs prints. Throws when it fails. */
async function run(
  program: string,
  env: Record<string, string>,
  args: readonly string[] = [],
): Promise<string> {
  await using running = start(program, env, args);
  const { code, stdout, stderr } = await running.exited;
  if (code !== 0) throw new Error(`${program}: exit code ${code}, ${stdout}${stderr}`);
  return stdout;
}
