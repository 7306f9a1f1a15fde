/** A whole cluster in the test's own process: real PostgreSQL databases, real nodes and routers over real HTTP. */
import { inject } from "vitest";
import { settleShards } from "../../migrations/shards.ts";
import { nodeConfig } from "../../shard-node/config.ts";
import { type RunningNode, startNode } from "../../shard-node/node.ts";
import { routerConfig } from "../../router/config.ts";
import { type RunningRouter, startRouter } from "../../router/router.ts";
import { readConfig } from "../../shared/process/config.ts";
import { newEventId, type ShardId } from "../../shared/domain/ids.ts";
import { SLOT_COUNT, slotOf } from "../../shared/domain/slots.ts";
import { mintToken, type Role } from "../../router/callers/tokens.ts";
import type { Booking } from "../../shared/domain/bookings.ts";
import type { Event } from "../../shared/domain/events.ts";
import { RPC_VERSION, RPC_VERSION_HEADER } from "../../shared/wire/rpc.ts";
import { ORGANIZER } from "./commands.ts";
import { createDatabase, type TestDatabase } from "./databases.ts";
import { eventually } from "./eventually.ts";
import { INTERNAL_TOKEN, SECRET } from "./secrets.ts";

export { INTERNAL_TOKEN, SECRET };

/** What a router says with each call to a node. */
export const RPC_HEADERS = rpcHeadersWith(INTERNAL_TOKEN);

export function rpcHeadersWith(internalToken: string): Record<string, string> {
  return {
    authorization: `Bearer ${internalToken}`,
    "content-type": "application/json",
    [RPC_VERSION_HEADER]: RPC_VERSION,
  };
}

/** For tests of what is answered, not of when: a busy machine breaks none of these bounds. */
const BOUNDS = ["COMMAND_DEADLINE", "READ_DEADLINE", "CONNECT_TIMEOUT", "STATEMENT_TIMEOUT", "LOCK_TIMEOUT"];
export const PATIENT = Object.fromEntries(BOUNDS.map((name) => [`${name}_MS`, "60000"]));

type Env = Readonly<Record<string, string>>;

interface ClusterSetup {
  readonly shards?: number;
  readonly routers?: number;
  readonly redisUrl?: string | null;
  /** The servers whose templates the databases are cloned from; by default the shared test server. */
  readonly catalogServer?: string;
  readonly serverOf?: (shard: number) => string | undefined;
  /** A server that replicates the shards' server; nodes read from it. */
  readonly replicaServer?: string;
  /** Further environment of every node and router. */
  readonly env?: Env;
}

interface TestShard {
  readonly id: ShardId;
  readonly databaseUrl: string;
}

export type TestCluster = Awaited<ReturnType<typeof startTestCluster>>;

export async function startTestCluster(setup: ClusterSetup = {}) {
  const { shards: shardCount = 2, routers: routerCount = 1, redisUrl = null, env = {} } = setup;
  const databases: TestDatabase[] = [await createDatabase("catalog", setup.catalogServer)];
  const catalogUrl = databases[0]?.url ?? "";
  const shards: TestShard[] = [];
  for (let index = 0; index < shardCount; index += 1) {
    const database = await createDatabase("shard", setup.serverOf?.(index));
    databases.push(database);
    shards.push({ id: `shard-${index}` as ShardId, databaseUrl: database.url });
  }
  await settleShards(catalogUrl, shards);

  const shared = {
    INTERNAL_TOKEN,
    HOST: "127.0.0.1",
    PORT: "0",
    ADMIN_PORT: "0",
    LOG_LEVEL: process.env["TEST_LOG_LEVEL"] ?? "silent",
    // Tests write faster than people do; those of the limits switch them on.
    RATE_LIMIT_PER_USER: "0",
    RATE_LIMIT_PER_ORGANIZER: "0",
    RATE_LIMIT_PER_ADDRESS: "0",
    ...(redisUrl === null ? {} : { REDIS_URL: redisUrl }),
    ...env,
  };
  const nodes: RunningNode[] = [];
  const routers: RunningRouter[] = [];
  /** One that may not be ready. */
  const addUnreadyNode = async (shard: TestShard, more: Env = {}) => {
    const path = shard.databaseUrl.split("/").at(-1) ?? "";
    const settings = {
      ...shared,
      SHARD_ID: shard.id,
      DATABASE_URL: shard.databaseUrl,
      CATALOG_URL: catalogUrl,
      ...(setup.replicaServer === undefined ? {} : { REPLICA_URL: setup.replicaServer + path }),
      ...more,
    };
    const node = await startNode(readConfig(nodeConfig, settings));
    nodes.push(node);
    return node;
  };
  /** Ready when it resolves, like a router that is added. */
  const addNode = async (shard: TestShard, more?: Env) => ready(await addUnreadyNode(shard, more));
  const addRouter = async (more: Env = {}) => {
    const NODE_URLS = nodes.map((node) => node.url).join(",");
    const settings = { ...shared, NODE_URLS, AUTH_JWT_SECRET: SECRET, ...more };
    const router = await startRouter(readConfig(routerConfig, settings));
    routers.push(router);
    return ready(router);
  };
  /** A client of the first router, or of the given one. */
  const client = (router?: RunningRouter) => new Client((router ?? routers[0])?.url ?? "");
  for (const shard of shards) await addNode(shard);
  for (let index = 0; index < routerCount; index += 1) {
    const router = await addRouter();
    if (shardCount > 0) await everyShardAnswers(client(router), shardCount);
  }
  return {
    catalogUrl,
    shards: shards as readonly TestShard[],
    nodes,
    routers,
    client,
    addNode,
    addUnreadyNode,
    addRouter,
    async [Symbol.asyncDispose]() {
      for (const running of [...routers.splice(0), ...nodes.splice(0)]) await running.close();
      // A database whose server a test has killed is gone already.
      await Promise.allSettled(databases.splice(0).map(async (each) => each[Symbol.asyncDispose]()));
    },
  };
}

const UNTRACED = { traceparent: `00-${"1".repeat(32)}-${"1".repeat(16)}-00` };

/** A router is ready once it has a map, and that may have been read before the last node announced itself. */
async function everyShardAnswers(client: Client, shardCount: number): Promise<void> {
  const answering = new Set<number>();
  await eventually("every shard answers", async () => {
    const unknown = newEventId(Date.now());
    const answer = await client.send("GET", `/v1/events/${unknown}`, { headers: UNTRACED });
    if (answer.status === 404) answering.add(Math.floor((slotOf(unknown) * shardCount) / SLOT_COUNT));
    return answering.size === shardCount;
  });
}

async function ready<Role extends { readonly adminUrl: string }>(role: Role): Promise<Role> {
  await eventually("it is ready", async () => (await fetch(`${role.adminUrl}/readyz`)).ok);
  return role;
}

/** The Redis of the test run, or null where none is installed. */
export const testRedisUrl = (): string | null => inject("redisUrl");

const tokens = new Map<string, Promise<string>>();

/** A token of this user, made once. */
export async function tokenOf(sub: string, role: Role = "buyer"): Promise<string> {
  const token = tokens.get(`${role} ${sub}`) ?? mintToken({ secret: SECRET, sub, role, ttlSeconds: 3600 });
  tokens.set(`${role} ${sub}`, token);
  return token;
}

export interface Answer<Body> {
  readonly status: number;
  readonly headers: Headers;
  readonly body: Body;
}

/** What tests look at in a problem document. */
export interface ProblemBody {
  readonly code?: string;
  readonly requestId?: string;
  readonly [member: string]: unknown;
}

export class Client {
  readonly url: string;

  constructor(url: string) {
    this.url = url;
  }

  async send<Body = ProblemBody>(
    method: string,
    path: string,
    options: { as?: string; role?: Role; body?: unknown; headers?: Record<string, string> } = {},
  ): Promise<Answer<Body>> {
    const headers: Record<string, string> = { ...options.headers };
    if (options.as !== undefined)
      headers["authorization"] = `Bearer ${await tokenOf(options.as, options.role)}`;
    if (options.body !== undefined) headers["content-type"] ??= "application/json";
    const body = typeof options.body === "string" ? options.body : (JSON.stringify(options.body) ?? null);
    const answer = await fetch(this.url + path, { method, headers, body });
    const text = await answer.text();
    const said = (text === "" ? undefined : JSON.parse(text)) as Body;
    return { status: answer.status, headers: answer.headers, body: said };
  }

  /** Creates an event that is on sale. Throws when the answer is not 201. */
  async createEvent(fields: Record<string, unknown> = {}): Promise<Event> {
    const body = { name: "Concert", startsAt: "2030-06-01T20:00:00Z", totalTickets: 100, ...fields };
    const answer = await this.send<Event>("POST", "/v1/events", {
      as: ORGANIZER,
      role: "organizer",
      body,
    });
    if (answer.status !== 201)
      throw new Error(`creating an event answered ${answer.status} ${JSON.stringify(answer.body)}`);
    return answer.body;
  }

  async readEvent(id: string): Promise<Event> {
    return (await this.send<Event>("GET", `/v1/events/${id}`)).body;
  }

  async book(id: string, as: string, quantity: unknown = 1, headers: Record<string, string> = {}) {
    return this.#ofBooking("POST", `/v1/events/${id}/bookings`, { as, body: { quantity }, headers });
  }

  async hold(id: string, as: string, body: object = { quantity: 1 }, headers: Record<string, string> = {}) {
    return this.#ofBooking("POST", `/v1/events/${id}/holds`, { as, body, headers });
  }

  async confirm(bookingId: string, as: string) {
    return this.#ofBooking("POST", `/v1/bookings/${bookingId}/confirm`, { as });
  }

  async cancel(bookingId: string, as: string, role: Role = "buyer") {
    return this.#ofBooking("DELETE", `/v1/bookings/${bookingId}`, { as, role });
  }

  async readBooking(bookingId: string, as: string, role: Role = "buyer") {
    return this.#ofBooking("GET", `/v1/bookings/${bookingId}`, { as, role });
  }

  async #ofBooking(...request: Parameters<Client["send"]>) {
    return this.send<Booking & ProblemBody>(...request);
  }
}

/**
 * Runs `act` for all items, 500 at a time. Client and server share a process here: with thousands of new connections at
 * once, a busy machine would leave some without a request until the server gives them up (`headersTimeout`).
 */
export async function crowd<Item, Result>(
  items: readonly Item[],
  act: (item: Item, index: number) => Promise<Result>,
): Promise<Result[]> {
  const results: Result[] = [];
  const waiting = items.entries();
  const one = async () => {
    for (const [index, item] of waiting) results[index] = await act(item, index);
  };
  await Promise.all(Array.from({ length: 500 }, one));
  return results;
}

/** How often each value occurs. */
export function tally(values: Iterable<string | number>): Record<string, number> {
  const groups = [...Map.groupBy(values, (value) => value)];
  return Object.fromEntries(groups.map(([value, all]) => [value, all.length]));
}
