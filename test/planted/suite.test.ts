/**
 * Proof that the suite can fail. Each plant is a bug that somebody could really write. This file plants one at a time in
 * a copy of the sources, and a test of the rule that it breaks must turn red there. Unplanted, the same test is green.
 * One Vitest inside this one runs them all: it keeps what it has compiled, and uses this run's servers.
 */
import { join } from "node:path";
import { afterAll, beforeAll, expect, inject, test } from "vitest";
import { createVitest, type TestCase, type Vitest } from "vitest/node";
import { migrate } from "../../migrations/runner.ts";
import { createEmptyDatabase } from "../support/databases.ts";
import { copySources, type Planting } from "../support/planted-copy.ts";

const FUNCTIONS = "migrations/shard/0014_changes.sql";
const STORE = "test/components/booking-store.test.ts";
const STORIES = "test/components/booking-store.property.test.ts";
const DECIDER = "test/components/decider.test.ts";
const LANES = "test/components/lanes.test.ts";
const LOG = "test/components/change-log.test.ts";
const FOLLOWERS = "test/components/followers.test.ts";
const PUBLISHER = "test/components/change-publisher.test.ts";
const PLACES = "test/components/log-follower.test.ts";
const OWNERS = "test/components/slot-owners.test.ts";
const TOKENS = "test/unit/key-set.test.ts";
const MIGRATIONS = "test/components/migrations.test.ts";
const OLD_SNAPSHOT = "test/components/old-snapshot.test.ts";
const CACHE = "test/components/event-cache.test.ts";
const CONNECTION = "test/components/connection.test.ts";
const REQUESTS = "test/components/requests.test.ts";
const INTAKE = "test/components/intake.test.ts";
const WEBHOOKS = "test/components/webhooks.test.ts";
const TARGETS = "test/unit/webhook-targets.test.ts";
const LOG_FUNCTIONS = "migrations/shard/0015_log-places.sql";
const WEBHOOK_FUNCTIONS = "migrations/shard/0017_webhooks.sql";
const VIEWS = "test/components/read-side-tables.test.ts";
const REQUEST_FUNCTIONS = "migrations/shard/0013_booking-requests.sql";

interface Plant extends Planting {
  readonly bug: string;
  /** The rule whose tests must turn red. */
  readonly rule: string;
  /** Where those tests are. */
  readonly suite: string;
}

const PLANTS: readonly Plant[] = [
  {
    bug: "events are read without their lock",
    rule: "B1",
    suite: STORE,
    file: FUNCTIONS,
    find: "      limit 1\n      for update\n    ) e on true",
    replace: "      limit 1\n    ) e on true",
  },
  {
    bug: "a ticket more than is left may be sold",
    rule: "B1",
    suite: STORIES,
    file: FUNCTIONS,
    find: "elsif v_command.quantity > v_left[v_position] then",
    replace: "elsif v_command.quantity > v_left[v_position] + 1 then",
  },
  {
    bug: "an event counts as plain although more is wanted than is left",
    rule: "B8",
    suite: STORE,
    file: FUNCTIONS,
    find: "and w.tickets <= v_available[w.event]\n",
    replace: "",
  },
  {
    bug: "in a rush nobody asks whether a user has bookings already",
    rule: "B3",
    suite: STORE,
    file: FUNCTIONS,
    find: "b.event_id = any (p_event_ids) and b.user_id = any (p_users)",
    replace: "b.event_id = any (p_event_ids) and b.user_id is null",
  },
  {
    bug: "a hold is confirmed after its event was closed",
    rule: "B10",
    suite: STORE,
    file: FUNCTIONS,
    find: "elsif v_booking.status = 'held' and not v_sales_open[v_position] then",
    replace: "elsif false then",
  },
  {
    bug: "somebody else's booking is refused after waiting for its event",
    rule: "S3",
    suite: STORE,
    file: FUNCTIONS,
    find: "b.user_id = coalesce(c.user_id, b.user_id)",
    replace: "b.user_id = b.user_id",
  },
  {
    bug: "an organizer changes somebody else's event",
    rule: "S9",
    suite: STORE,
    file: FUNCTIONS,
    find: "v_before.owner_id is distinct from p_organizer",
    replace: "p_organizer is null",
  },
  {
    bug: "a message is acknowledged before its request is decided",
    rule: "Q2",
    suite: INTAKE,
    file: "shard-node/queue/intake.ts",
    find: "    const results = await this.#decide(",
    replace: "    chunk.at(-1)?.delivery.acknowledge(true);\n    const results = await this.#decide(",
  },
  {
    bug: "a request that is too old is decided",
    rule: "Q3",
    suite: REQUESTS,
    file: REQUEST_FUNCTIONS,
    find: "where r.is_request and time_of(r.id) <",
    replace: "where not r.is_request and time_of(r.id) <",
  },
  {
    bug: "a request whose receipt said lapsed is decided, because only its age counts",
    rule: "Q3",
    suite: REQUESTS,
    file: REQUEST_FUNCTIONS,
    find: "    where r.is_due and not exists",
    replace: "    where false and not exists",
  },
  {
    bug: "a message that comes again is decided again",
    rule: "Q1",
    suite: REQUESTS,
    file: REQUEST_FUNCTIONS,
    find: "  if v_done is not null then",
    replace: "  if false then",
  },
  {
    bug: "what a fault left undecided waits behind what is newer",
    rule: "Q4",
    suite: INTAKE,
    file: "shard-node/queue/intake.ts",
    find: "this.#waiting.unshift(...open)",
    replace: "this.#waiting.push(...open)",
  },
  {
    bug: "what is behind an undecided request of its event begins",
    rule: "Q4",
    suite: INTAKE,
    file: "shard-node/queue/intake.ts",
    find: "lanes.run(request, { deadline, mayBegin })",
    replace: "lanes.run(request, { deadline })",
  },
  {
    bug: "requests of an event are sent ahead of those whose batch may yet fail",
    rule: "Q4",
    suite: LANES,
    file: "shard-node/decide/lanes.ts",
    find: " || taken.requests === 0",
    replace: " || taken.requests >= 0",
  },
  {
    bug: "a batch is sent before the one ahead of it holds its locks",
    rule: "B8",
    suite: LANES,
    file: "shard-node/decide/lanes.ts",
    find: "await Promise.race([locked.promise, run]);",
    replace: "await Promise.race([locked.promise, run, Promise.resolve()]);",
  },
  {
    bug: "cancelling an expired hold frees its tickets again",
    rule: "B2",
    suite: STORIES,
    file: FUNCTIONS,
    find: "if v_booking.status <> 'expired' then",
    replace: "if true then",
  },
  {
    bug: "the user's limit is not checked",
    rule: "B3",
    suite: STORE,
    file: FUNCTIONS,
    find: "elsif v_command.tickets + v_command.quantity > v_max[v_position] then",
    replace: "elsif v_command.quantity > v_max[v_position] then",
  },
  {
    bug: "commands of one user in one batch do not see each other's tickets",
    rule: "B3",
    suite: STORIES,
    file: FUNCTIONS,
    find: "if v_outcomes[v_back] is null then",
    replace: "if false then",
  },
  {
    bug: "two lanes take commands of one slot",
    rule: "B8",
    suite: LANES,
    file: "shard-node/decide/lanes.ts",
    find: "return taken.lane === lane && ",
    replace: "return ",
  },
  {
    bug: "a second try takes its own bookings for a client's replay",
    rule: "B4",
    suite: DECIDER,
    file: "shard-node/store/batch.ts",
    find: "outcome: row.id === id ?",
    replace: "outcome: row.status === command.key ?",
  },
  {
    bug: "a replay is not recognised",
    rule: "B5",
    suite: STORE,
    file: FUNCTIONS,
    find: "elsif v_command.same_key then",
    replace: "elsif false then",
  },
  {
    bug: "a key that was used for other content is answered as a replay",
    rule: "B5",
    suite: STORE,
    file: FUNCTIONS,
    find: "case when v_command.same_content then 'replayed' else 'idempotency_key_reused' end",
    replace: "'replayed'",
  },
  {
    bug: "due holds keep their tickets until they are swept",
    rule: "B6",
    suite: STORE,
    file: FUNCTIONS,
    find: "b.expires_at > v_since and b.expires_at <= v_now",
    replace: "b.expires_at > v_since and v_now is null",
  },
  {
    bug: "an expired hold is confirmed without asking for its tickets",
    rule: "B7",
    suite: STORE,
    file: FUNCTIONS,
    find: "and v_available[v_position] >= v_booking.quantity\n",
    replace: "",
  },
  {
    bug: "the version does not rise",
    rule: "B9",
    suite: STORE,
    file: FUNCTIONS,
    find: "set available_tickets = x.available - coalesce(x.taken, 0), version = e.version + 1,",
    replace: "set available_tickets = x.available - coalesce(x.taken, 0),",
  },
  {
    bug: "the last moment of the sales window is inside it",
    rule: "B10",
    suite: STORIES,
    file: FUNCTIONS,
    find: "(x.event).starts_at) > v_now",
    replace: "(x.event).starts_at) >= v_now",
  },
  {
    bug: "anybody may settle anybody's booking",
    rule: "B11",
    suite: STORIES,
    file: FUNCTIONS,
    find: "elsif v_booking.id is null or v_booking.user_id <> p_settle_users[i] then",
    replace: "elsif v_booking.id is null then",
  },
  {
    bug: "the fence is not read",
    rule: "R3",
    suite: STORE,
    file: FUNCTIONS,
    find: "select array_agg(o.slot is not null order by x.position)",
    replace: "select array_agg(true order by x.position)",
  },
  {
    bug: "batches do not hold the lock that keeps slots in place",
    rule: "R3",
    suite: STORE,
    file: FUNCTIONS,
    find: "  perform pg_advisory_xact_lock_shared(slots_lock_key());\n\n  if cardinality(p_settle_bookings) > 0 then",
    replace: "  if cardinality(p_settle_bookings) > 0 then",
  },
  {
    bug: "a shard obeys a change of slot owners that another has overtaken",
    rule: "R3",
    suite: OWNERS,
    file: "migrations/shard/0002_slots.sql",
    find: " where t.token <= p_token;",
    replace: ";",
  },
  {
    bug: "an event is looked for from its oldest version",
    rule: "G3",
    suite: OLD_SNAPSHOT,
    file: FUNCTIONS,
    find: "where e.id between x.id and x.id\n      order by e.id desc\n",
    replace: "where e.id between x.id and x.id\n    order by e.id\n",
  },
  {
    bug: "due holds are looked for among all that have ever ended",
    rule: "G3",
    suite: OLD_SNAPSHOT,
    file: FUNCTIONS,
    find: "coalesce(min((x.event).updated_at), v_since)",
    replace: "v_since",
  },
  {
    bug: "bookings point at the row that batches update",
    rule: "G3",
    suite: OLD_SNAPSHOT,
    file: "migrations/shard/0001_tables.sql",
    find: "event_id        uuid not null references event_ids,",
    replace: "event_id        uuid not null references events,",
  },
  {
    bug: "a migration that was changed after it was applied is taken for the same",
    rule: "G1",
    suite: MIGRATIONS,
    file: "migrations/runner.ts",
    find: "if (file.checksum !== checksum)",
    replace: "if (file.checksum === name)",
  },
  {
    bug: "migrations do not wait for each other",
    rule: "G1",
    suite: MIGRATIONS,
    file: "migrations/runner.ts",
    find: "    await connection.run(ALONE);\n",
    replace: "",
  },
  {
    bug: "the catalog takes a slot's owner from a move that another change has overtaken",
    rule: "R3",
    suite: OWNERS,
    file: "migrations/shards.ts",
    find: "where version = $3 returning",
    replace: "where $3::bigint > 0 returning",
  },
  {
    bug: "the rows of a result are taken from the driver's array",
    rule: "F1",
    suite: CONNECTION,
    file: "shared/database/connection.ts",
    find: ".forEach((row) => void rows.push(row as Row)),",
    replace: ".then((all: readonly unknown[]) => void rows.push(...(all as Row[]))),",
  },
  {
    bug: "a batch that met a fault is given up",
    rule: "F1",
    suite: DECIDER,
    file: "shard-node/decide/decider.ts",
    find: "if (attempt < 2 && error instanceof DatabaseError) continue;",
    replace: "if (attempt < 1 && error instanceof DatabaseError) continue;",
  },
  {
    bug: "a commit in doubt is forgotten when the second try fails otherwise",
    rule: "F1",
    suite: DECIDER,
    file: "shard-node/decide/decider.ts",
    find: "inDoubt ||= error instanceof",
    replace: "inDoubt = error instanceof",
  },
  {
    bug: "a no of the second try is final although the first may still be decided",
    rule: "F1",
    suite: DECIDER,
    file: "shard-node/decide/decider.ts",
    find: "result: mayRunLater ? afterLostTry(result) : result,",
    replace: "result: attempt > 2 ? afterLostTry(result) : result,",
  },
  {
    bug: "after an error that nobody foresaw a commit is forgotten",
    rule: "F8",
    suite: DECIDER,
    file: "shard-node/decide/decider.ts",
    find: "inDoubt || !(error instanceof DatabaseError) ? UNKNOWN : failureOf(error);",
    replace:
      'inDoubt ? UNKNOWN : error instanceof DatabaseError ? failureOf(error) : { outcome: "internal" as const };',
  },
  {
    bug: "a command that nobody waits for any more is decided",
    rule: "F2",
    suite: LANES,
    file: "shard-node/decide/lanes.ts",
    find: "if (deadline > now && !isLocked) return true;",
    replace: "if (deadline > 0 && !isLocked) return true;",
  },
  {
    bug: "a user may have any number of commands under way",
    rule: "L1",
    suite: LANES,
    file: "shared/process/under-way.ts",
    find: "if (count >= this.#max) return false;",
    replace: "",
  },
  {
    bug: "the line that came first takes all of a batch",
    rule: "L2",
    suite: LANES,
    file: "shared/process/fair-queue.ts",
    find: "const share = Math.max(1, Math.floor((count - taken.length) / open.length));",
    replace: "const share = count;",
  },
  {
    bug: "a call keeps its place until its last result",
    rule: "L3",
    suite: "test/components/coalescer.test.ts",
    file: "router/shards/coalescer.ts",
    find: "(position, result) => {\n      leavePlace();",
    replace: "(position, result) => {",
  },
  {
    bug: "a lane's own batch counts as somebody else's lock",
    rule: "L4",
    suite: DECIDER,
    file: "shard-node/decide/decider.ts",
    find: "          await before;\n",
    replace: "",
  },
  {
    bug: "a line takes more however long its first item has waited",
    rule: "L5",
    suite: LANES,
    file: "shared/process/fair-queue.ts",
    find: 'return "slow";',
    replace: "void known;",
  },
  {
    bug: "a line is as long as the wait of its first item allows, however slowly it is served",
    rule: "L5",
    suite: LANES,
    file: "shared/process/fair-queue.ts",
    find: "Math.max(now - first.arrived, expected)",
    replace: "now - first.arrived",
  },
  {
    bug: "slow calls use up all that may be open",
    rule: "L3",
    suite: "test/components/coalescer.test.ts",
    file: "router/shards/coalescer.ts",
    find: "if (gatherMs === 0) setImmediate",
    replace: "if (gatherMs >= 0) setImmediate",
  },
  {
    bug: "the cache takes an older version for a newer one",
    rule: "C2",
    suite: CACHE,
    file: "router/cache/event-cache.ts",
    find: "version > knownVersion ? new CachedEvent",
    replace: "version > 0 ? new CachedEvent",
  },
  {
    bug: "a replica may be behind what the router has learned and let go",
    rule: "P2",
    suite: "test/components/replica-reads.test.ts",
    file: "router/cache/event-cache.ts",
    find: "?.learnedAt ?? this.#forgottenUntil;",
    replace: "?.learnedAt ?? Number.NEGATIVE_INFINITY;",
  },
  {
    bug: "Redis takes an older version for a newer one",
    rule: "C2",
    suite: "test/components/snapshot-store.test.ts",
    file: "shared/redis/redis.ts",
    find: "if version > current then",
    replace: "if version > 0 then",
  },
  {
    bug: "who changes an event does not log it",
    rule: "J1",
    suite: STORIES,
    file: FUNCTIONS,
    find: "  perform log_event(p_id, v_expired, v_row is distinct from v_before);\n",
    replace: "",
  },
  {
    bug: "a batch does not log the holds that end with it",
    rule: "J1",
    suite: STORIES,
    file: FUNCTIONS,
    find: "nullif(v_cancelled, '{}'), v_expired);",
    replace: "nullif(v_cancelled, '{}'), null);",
  },
  {
    bug: "a booking that is confirmed and cancelled in one batch is logged as both",
    rule: "J1",
    suite: STORIES,
    file: FUNCTIONS,
    find: "    v_confirmed := array(select unnest(v_confirmed) except select unnest(v_cancelled));\n",
    replace: "",
  },
  {
    bug: "a position is taken without a mark",
    rule: "J2",
    suite: LOG,
    file: FUNCTIONS,
    find: "if not pg_try_advisory_xact_lock_shared(changes_mark() + pg_sequence_last_value('changes_position')) then",
    replace: "if false then",
  },
  {
    bug: "who reads the log takes every position that was handed out for committed",
    rule: "J2",
    suite: LOG,
    file: FUNCTIONS,
    find: "return least(v_last, v_marked);",
    replace: "return v_last;",
  },
  {
    bug: "nobody is told that changes were dropped",
    rule: "J3",
    suite: LOG,
    file: LOG_FUNCTIONS,
    find: "      update changes_dropped set until = greatest(until, v_newest.position), truncated = v_newest.position;\n",
    replace: "",
  },
  {
    bug: "after a restore the log goes on as if nothing had happened",
    rule: "J3",
    suite: LOG,
    file: "migrations/shards.ts",
    find: "  await database.database.query(RESTART_CHANGES);\n",
    replace: "",
  },
  {
    bug: "any number of followers may wait",
    rule: "J4",
    suite: FOLLOWERS,
    file: "shard-node/read/followers.ts",
    find: "if (this.#open >= FOLLOWERS_MAX) {",
    replace: "if (this.#open < 0) {",
  },
  {
    bug: "the answer to a repeated request has no position",
    rule: "J5",
    suite: LOG,
    file: FUNCTIONS,
    find: "    v_logged := newest_position();\n",
    replace: "    null;\n",
  },
  {
    bug: "a change is published before the one before it is confirmed",
    rule: "J6",
    suite: PUBLISHER,
    file: "shard-node/queue/change-publisher.ts",
    find: "    if ((positions.get(eventId) ?? position) !== position) continue;\n",
    replace: "",
  },
  {
    bug: "what the broker refused counts as published",
    rule: "J6",
    suite: PUBLISHER,
    file: "shard-node/queue/change-publisher.ts",
    find: 'if (result === "confirmed") confirmed.add(message);',
    replace: "confirmed.add(message);",
  },
  {
    bug: "the position is kept before the work is done",
    rule: "J7",
    suite: PLACES,
    file: "shard-node/read/log-follower.ts",
    find: "        const { changes } = answer;\n",
    replace: "        const { changes } = answer;\n        this.#position = answer.position;\n",
  },
  {
    bug: "every node takes the place",
    rule: "J7",
    suite: PLACES,
    file: LOG_FUNCTIONS,
    find: "v_place.held_until < v_now and p_seconds > 0 then",
    replace: "p_seconds > 0 then",
  },
  {
    bug: "after a failover a place goes on where the log was begun anew",
    rule: "J7",
    suite: PLACES,
    file: LOG_FUNCTIONS,
    find: "  select d.truncated into v_first from changes_dropped d;\n",
    replace: "  select d.until into v_first from changes_dropped d;\n",
  },
  {
    bug: "every organizer sees to the webhooks of an event without an owner",
    rule: "J9",
    suite: WEBHOOKS,
    file: WEBHOOK_FUNCTIONS,
    find: "v_owner is distinct from p_caller",
    replace: "v_owner <> p_caller",
  },
  {
    bug: "a delivery that is under way is taken again",
    rule: "J10",
    suite: WEBHOOKS,
    file: WEBHOOK_FUNCTIONS,
    find: "due_at = v_now + make_interval(secs => p_seconds)",
    replace: "due_at = v_now",
  },
  {
    bug: "each try of a delivery has an id of its own",
    rule: "J10",
    suite: TARGETS,
    file: "shard-node/webhooks/sender.ts",
    find: 'id.replaceAll(".", "_")',
    replace: "id + String(Math.random())",
  },
  {
    bug: "a redirect counts as taken",
    rule: "J11",
    suite: TARGETS,
    file: "shard-node/webhooks/sender.ts",
    find: "statusCode < 300",
    replace: "statusCode < 400",
  },
  {
    bug: "the target of a webhook is judged only when it is added",
    rule: "J12",
    suite: TARGETS,
    file: "shard-node/webhooks/targets.ts",
    find: "    this.#addressesOf(hostname).then(",
    replace: "    this.#resolve(hostname).then(",
  },
  {
    bug: "an IPv4 address inside an IPv6 one counts as public",
    rule: "J12",
    suite: TARGETS,
    file: "shard-node/webhooks/targets.ts",
    find: "return address instanceof ipaddr.IPv4 || address.match(GLOBAL_IPV6);",
    replace: "return true;",
  },
  {
    bug: "a host that fails keeps all its places",
    rule: "J13",
    suite: WEBHOOKS,
    file: WEBHOOK_FUNCTIONS,
    find: "where d.nth <= case when d.failing then 1 else p_host_max end",
    replace: "where d.nth <= p_host_max",
  },
  {
    bug: "the position is moved before the rows, in a transaction of its own",
    rule: "V1",
    suite: VIEWS,
    file: "read-side/views/writing.ts",
    find: "    const events = [...rows.events];\n",
    replace: `
    const text = \`update \${this.schema}.positions set position = $3 where shard = $1 and position = $2\`;
    await this.#database.query({ name: "move", text }, [shard, from.position, to.position]);
    from = { ...from, position: to.position };
    const events = [...rows.events];\n`,
  },
  {
    bug: "who writes does not look whether the position is still the one it knows",
    rule: "V1",
    suite: VIEWS,
    file: "read-side/views/writing.ts",
    find: "where shard = $1 and position = $2 and copied is not distinct from $3 and",
    replace: "where shard = $1 and ($2::bigint, $3::text) is not null and",
  },
  {
    bug: "a booking is counted again when its row has not changed",
    rule: "V1",
    suite: VIEWS,
    file: "read-side/views/writing.ts",
    find: "      where b.status < excluded.status\n",
    replace: "      where b.status <= excluded.status\n",
  },
  {
    bug: "a part of a token's signature is enough",
    rule: "S1",
    suite: TOKENS,
    file: "router/callers/hs256.ts",
    find: "return timingSafeEqual(expected, received);",
    replace: "return timingSafeEqual(expected.subarray(2), received.subarray(2));",
  },
  {
    bug: "an extension that a token says must be understood is passed over",
    rule: "S1",
    suite: TOKENS,
    file: "router/callers/tokens.ts",
    find: '|| "crit" in header',
    replace: "",
  },
  {
    bug: "writes that were let through without being counted are not taken off the limit",
    rule: "S6",
    suite: "test/components/write-limits.test.ts",
    file: "router/callers/write-limits.ts",
    find: "points: max - this.#uncounted",
    replace: "points: max",
  },
];

const isRedisMissing = inject("redisUrl") === null;
const needsRedis = ({ file }: Plant) => file === "shared/redis/redis.ts";

const copy = copySources();
let vitest: Vitest;

beforeAll(async () => {
  vitest = await createVitest("test", {
    root: copy.directory,
    config: false,
    watch: false,
    include: ["test/**/*.test.ts"],
    reporters: [{}],
    maxWorkers: 1,
    bail: 1,
    testTimeout: 10_000, // some plants keep a test waiting for ever
    // The same stories catch the same plants every time.
    env: { TEST_SEED: "1", FC_NUM_RUNS: "150", TEST_SHRINK: "no" },
  });
  vitest.provide("postgresUrl", inject("postgresUrl"));
  vitest.provide("redisUrl", inject("redisUrl"));
});
afterAll(async () => {
  await vitest.close();
  copy[Symbol.dispose]();
});

/** The tests that caught a plant, and the files they are in. */
const catchers = new Set<string>();
const suites = new Set<string>();

test.for(PLANTS)("H3: caught by $rule: $bug", { timeout: 120_000 }, async (plant, { skip }) => {
  skip(isRedisMissing && needsRedis(plant), "SKIPPED: no redis-server or valkey-server is installed");
  copy.plant(plant);
  vitest.invalidateFile(join(copy.directory, plant.file));

  const isInSchema = plant.file.startsWith("migrations/shard/");
  await using template = isInSchema ? await templateOfCopy() : undefined;
  const run = await runTests([plant.suite], new RegExp(`\\b${plant.rule}\\b.*:`), template?.name);

  copy.restore(plant);
  vitest.invalidateFile(join(copy.directory, plant.file));
  expect(run.failed.filter((name) => rulesOf(name).includes(plant.rule))).not.toEqual([]);
  for (const name of run.failed) catchers.add(name);
  suites.add(plant.suite);
});

test("H3: without a plant, the tests that caught one are green", { timeout: 120_000 }, async () => {
  vitest.config.bail = 0; // a file that is not run keeps the results of its plant
  for (const project of vitest.projects) project.config.testTimeout = 60_000;
  const names = [...catchers].map((name) => RegExp.escape(name));

  const run = await runTests([...suites], new RegExp(`(${names.join("|")})$`));

  expect(run.failed).toEqual([]);
  expect(run.passed.toSorted()).toEqual([...catchers].toSorted());
});

interface TestRun {
  /** Names of tests. */
  readonly failed: readonly string[];
  readonly passed: readonly string[];
}

/** A database with the schema of a shard as the copy's migrations make it; dropped when disposed. */
async function templateOfCopy(): Promise<{ name: string } & AsyncDisposable> {
  const template = await createEmptyDatabase();
  await migrate(template.url, "shard", join(copy.directory, "migrations/shard"));
  const name = new URL(template.url).pathname.slice(1);
  return { name, [Symbol.asyncDispose]: async () => template[Symbol.asyncDispose]() };
}

/** Runs tests of the copy: those in these files, with such a name, with shards cloned from this template. */
async function runTests(files: readonly string[], names: RegExp, shard?: string): Promise<TestRun> {
  vitest.provide("templates", { ...inject("templates"), ...(shard === undefined ? {} : { shard }) });
  vitest.setGlobalTestNamePattern(names);

  const { testModules, unhandledErrors } = await vitest.runTestFiles(
    files.map((file) => join(copy.directory, file)),
  );

  expect(unhandledErrors).toEqual([]);
  const errors = testModules.flatMap((module) => module.errors());
  expect(errors).toEqual([]);
  const tests = testModules.flatMap((module) => [...module.children.allTests()]);
  return { failed: namesOf(tests, "failed"), passed: namesOf(tests, "passed") };
}

function namesOf(tests: readonly TestCase[], state: "failed" | "passed"): string[] {
  return tests.filter((found) => found.result().state === state).map(({ name }) => name);
}

function rulesOf(name: string): string[] {
  return (name.split(":")[0] ?? "").split(" ");
}
