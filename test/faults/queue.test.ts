/** Booking requests under load while each process is killed: a 202 is a promise. The cluster is the one of `npm start`. */
import { readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { connect } from "amqplib";
import { expect, test } from "vitest";
import { audit } from "../../audit/audit.ts";
import { mintToken } from "../../router/callers/tokens.ts";
import type { CloudEvent } from "../../shared/domain/cloud-events.ts";
import { CHANGES_EXCHANGE } from "../../shared/queue/queues.ts";
import { isAlive, JWT_SECRET, NpmStart, PATIENCE_MS, until } from "../cluster/npm-start.ts";
import { connectTo } from "../support/databases.ts";
import { hasRabbitmq } from "../support/rabbitmq.ts";
import { tally } from "../support/running-cluster.ts";

const TICKETS = 100_000;
const CLIENTS = 12;
const PAUSE_MS = 50;
/** How long PostgreSQL stands still. */
const AWAY_MS = Number(process.env["TEST_AWAY_SECONDS"] ?? 10) * 1_000;
/** Gets what is published of bookings. */
const HEARD = "heard";
/** Accepted between two kills. */
const ACCEPTED_EACH = 100;

const DECIDED = `
  select count(*)::integer as count from request_outcomes where booking_id = any ($1::uuid[]) and outcome <> 'lapsed'`;

interface Accepted {
  readonly user: string;
  readonly receipt: string;
  readonly bookingId: string;
}
interface State {
  readonly status: string;
  readonly booking?: { readonly id: string };
  readonly problem?: { readonly code: string };
}

test.skipIf(!hasRabbitmq)(
  "Q2 Q4 J6 J7 B1 B3 E2: the database stands still, then database, node, router and broker are killed in turn; each 202 is decided once, and each booking published",
  { timeout: 6 * PATIENCE_MS },
  async () => {
    await using start = new NpmStart({ queue: true, env: { SHARDS: "1", RATE_LIMIT_PER_ADDRESS: "0" } });
    const { router, shards, catalogUrl, amqpUrl } = await start.ready();
    expect(amqpUrl).toMatch(/^amqp:/);
    await until("the guide names the queue", () =>
      start.stdout.includes(`RabbitMQ at ${new URL(amqpUrl ?? "").host}`),
    );
    await bindTo(amqpUrl ?? "");
    const event = await createEvent(router.url);
    const accepted: Accepted[] = [];
    const others: string[] = [];
    const stop = new AbortController();

    /** Each user asks twice and may have one ticket. */
    const client = async (name: number): Promise<void> => {
      for (let turn = 0; !stop.signal.aborted; turn += 1) {
        const user = `user-${name}-${turn}`;
        const token = await tokenOf(user);
        for (let time = 0; time < 2; time += 1) {
          const answer = await book(router.url, event, token).catch(() => undefined);
          if (answer?.status === 202) accepted.push({ user, ...answer.body });
          else others.push(String(answer?.status));
        }
        await sleep(PAUSE_MS);
      }
    };
    const clients = Array.from({ length: CLIENTS }, async (_, name) => client(name));
    const moreAreAccepted = async (): Promise<void> => {
      const enough = accepted.length + ACCEPTED_EACH;
      await until("more requests are accepted", () => accepted.length >= enough);
    };

    await moreAreAccepted();
    const [before, othersBefore, stoppedAt] = [accepted.length, others.length, performance.now()];
    const database = familyOf(start.pids()["shard-0 postgres"] ?? 0);
    for (const pid of database) process.kill(pid, "SIGSTOP");
    try {
      await until("it stood still for long", () => performance.now() - stoppedAt > AWAY_MS);
    } finally {
      for (const pid of database) process.kill(pid, "SIGCONT");
    }
    const meanwhile = accepted.slice(before);
    expect(others.slice(othersBefore)).toEqual([]);
    expect(meanwhile.length).toBeGreaterThan(ACCEPTED_EACH);
    const backAt = performance.now();
    using connection = connectTo(shards[0]?.databaseUrl ?? "");
    const requests = meanwhile.map(({ bookingId }) => bookingId);
    await until("all of that time are decided", async () => {
      const [row] = await connection.run<{ count: number }>(DECIDED, [requests]);
      return row?.count === requests.length;
    });
    console.info(
      `${meanwhile.length} accepted in ${AWAY_MS} ms without a database, all decided ${Math.round(performance.now() - backAt)} ms after it was back`,
    );
    for (const name of ["shard-0 postgres", "shard-0 node", "router", "rabbitmq"]) {
      const pid = start.pids()[name] ?? 0;
      process.kill(pid, "SIGKILL");
      await until(`${name} runs again`, () => start.pids()[name] !== pid && isAlive(start.pids()[name] ?? 0));
      await moreAreAccepted();
    }
    stop.abort();
    await Promise.all(clients);

    const states: State[] = [];
    const unread = [...accepted];
    const readAll = async (): Promise<void> => {
      for (let next = unread.pop(); next !== undefined; next = unread.pop()) {
        const { user, receipt } = next;
        const token = await tokenOf(user);
        await until(`the request of ${user} is decided`, async () => {
          const state = await read(router.url, receipt, token).catch(() => undefined);
          if (state === undefined || state.status === "queued") return false;
          states.push(state);
          return true;
        });
      }
    };
    await Promise.all(Array.from({ length: CLIENTS }, readAll));
    const granted = states.flatMap(({ booking }) => booking?.id ?? []);
    expect(
      Object.keys(tally(states.map(({ status, problem }) => problem?.code ?? status))).toSorted(),
    ).toEqual(["decided", "user_limit_exceeded"]);
    // A 201 is of the time without a broker, and a 503 of the moment in which it went.
    expect(
      Object.keys(tally(others)).filter((status) => !["201", "409", "503", "undefined"].includes(status)),
    ).toEqual([]);
    expect(new Set(granted).size).toBe(granted.length);
    const ids = new Set(accepted.map(({ bookingId }) => bookingId));
    using again = connectTo(shards[0]?.databaseUrl ?? "");
    const rows = (await again.run("select id from bookings")) as { id: string }[];
    expect(
      rows
        .filter(({ id }) => ids.has(id))
        .map(({ id }) => id)
        .toSorted(),
    ).toEqual(granted.toSorted());
    expect((await audit(catalogUrl)).violations).toEqual([]);
    const heard = await hear(amqpUrl ?? "", rows.length);
    expect([...heard.keys()].toSorted()).toEqual(rows.map(({ id }) => id).toSorted());
    const sequences = [...heard.values()].map(({ sequence }) => sequence);
    expect(sequences).toEqual(sequences.toSorted());
    // RabbitMQ's own helpers end with it, and Erlang's port mapper too.
    const pids = Object.values(start.pids());
    expect(Object.keys(start.pids())).toEqual(expect.arrayContaining(["rabbitmq", "epmd"]));
    expect(await start.stop()).toBe(0);
    expect(pids.filter(isAlive)).toEqual([]);
  },
);

async function bindTo(url: string): Promise<void> {
  const connection = await connect(url);
  const channel = await connection.createChannel();
  await channel.assertExchange(CHANGES_EXCHANGE, "topic");
  await channel.assertQueue(HEARD, { arguments: { "x-queue-type": "quorum" } });
  await channel.bindQueue(HEARD, CHANGES_EXCHANGE, "onsale.booking.#");
  await connection.close();
}

/** What was published of so many bookings, by booking, in the order of the first time. What came again had the same content. */
async function hear(url: string, bookings: number): Promise<ReadonlyMap<string, CloudEvent>> {
  const [firsts, heard] = [new Map<string, CloudEvent>(), new Map<string, string>()];
  let repeats = 0;
  const connection = await connect(url);
  const channel = await connection.createChannel();
  await channel.consume(HEARD, (message) => {
    if (message === null) return;
    const text = message.content.toString();
    const cloudEvent = JSON.parse(text) as CloudEvent;
    if (heard.has(cloudEvent.id)) repeats += 1;
    else firsts.set(cloudEvent.subject, cloudEvent);
    expect(heard.get(cloudEvent.id) ?? text).toBe(text);
    heard.set(cloudEvent.id, text);
    channel.ack(message);
  });
  await until("all was published", () => firsts.size === bookings);
  await connection.close();
  console.info(`${heard.size} changes were published, ${repeats} of them again`);
  return firsts;
}

/** PostgreSQL's processes, a server's first. */
function familyOf(pid: number): readonly number[] {
  const children = readFileSync(`/proc/${pid}/task/${pid}/children`, "utf8").split(" ").filter(Boolean);
  return [pid, ...children.map(Number)];
}

async function tokenOf(sub: string): Promise<string> {
  return mintToken({ secret: JWT_SECRET, sub, role: "buyer", ttlSeconds: 600 });
}

async function createEvent(url: string): Promise<string> {
  const token = await mintToken({ secret: JWT_SECRET, sub: "organizer", role: "organizer", ttlSeconds: 60 });
  const event = { name: "n", startsAt: "2999-01-01T00:00:00Z", totalTickets: TICKETS, maxPerUser: 1 };
  const answer = await send(`${url}/v1/events`, token, event);
  return ((await answer.json()) as { id: string }).id;
}

async function book(url: string, event: string, token: string) {
  const answer = await send(`${url}/v1/events/${event}/bookings`, token, { quantity: 1 });
  return { status: answer.status, body: (await answer.json()) as Omit<Accepted, "user"> };
}

async function send(url: string, token: string, body: object): Promise<Response> {
  const headers = {
    authorization: `Bearer ${token}`,
    "content-type": "application/json",
    prefer: "respond-async",
  };
  return fetch(url, { method: "POST", headers, body: JSON.stringify(body) });
}

async function read(url: string, receipt: string, token: string): Promise<State | undefined> {
  const answer = await fetch(`${url}/v1/booking-requests/${receipt}`, {
    headers: { authorization: `Bearer ${token}` },
  });
  return answer.status === 200 ? ((await answer.json()) as State) : undefined;
}
