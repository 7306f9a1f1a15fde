/**
 * One run: a small cluster, buyers and readers who do as they like, and faults. Everything follows from the seed. At the end all
 * faults are mended, everybody who is in doubt asks again, and the cluster must serve as on the first day.
 */
import type { Event } from "../../shared/domain/events.ts";
import type { EventId, ShardId } from "../../shared/domain/ids.ts";
import { SLOT_COUNT, type Slot } from "../../shared/domain/slots.ts";
import { SimulatedBroker } from "./broker.ts";
import {
  type Node,
  type Settings,
  startNode,
  startReadSide,
  type Surroundings,
  startRouter,
  tokenFor,
} from "./cluster.ts";
import { Follower } from "./follower.ts";
import { FAULT_KINDS, type FaultKind, letFail, type ReadSide, type Scene, type Seat } from "./faults.ts";
import { give } from "./http.ts";
import { Network, useNetwork } from "./network.ts";
import { type Asked, type Heard, type RuleBroken, Rules } from "./rules.ts";
import { type Commit, SimulatedShard } from "./store.ts";
import { SimulatedCatalog, SimulatedRedis } from "./surroundings.ts";
import { SimulatedViews } from "./views.ts";
import { type Process, runWorld, World } from "./world.ts";

/** When clients begin, when they and the faults end, and how long after the last fault the cluster must be well again. */
const OPEN_MS = 300;
const HEAL_MS = 3_300;
const RECOVERED_MS = 10_000;
const RUN_MAX_MS = 60_000;
/** How soon after everything the read side knows it. Its followers may have just begun a pause after faults. */
const VIEWS_READY_MS = 5_000;
const CLIENT_TIMEOUT_MS = 9_000;
const RETRIES_MAX = 8;

export interface Told {
  readonly seed: number;
  readonly broken: RuleBroken | undefined;
  readonly lines: readonly string[];
  readonly hash: string;
  readonly answers: ReadonlyMap<string, number>;
  readonly faults: readonly string[];
  readonly simulatedMs: number;
}

/** Tells the story of a seed, with all kinds of faults or only one. */
export async function tell(seed: number, only?: FaultKind | "none"): Promise<Told> {
  return new Story(seed, only).run();
}

class Story {
  readonly #only: FaultKind | "none" | undefined;
  readonly #world: World;
  readonly #shards: SimulatedShard[];
  readonly #rules: Rules;
  readonly #network: Network;
  readonly #catalog: SimulatedCatalog;
  readonly #redis: SimulatedRedis | undefined;
  readonly #broker: SimulatedBroker;
  readonly #views: SimulatedViews;
  readonly #readSides: ReadSide[];
  readonly #settings: Settings;
  readonly #seats: Seat[];
  readonly #scene: Scene;
  readonly #nodes = new Map<string, Node>();
  readonly #events: EventId[] = [];
  readonly #faults: string[] = [];
  /** What clients with a key wanted last, for those who are in doubt. */
  readonly #wanted = new Map<string, Omit<Wish, "router">>();
  readonly #receipts: Omit<Wish, "router">[] = [];
  #guests = 0;
  #done = false;

  constructor(seed: number, only: FaultKind | "none" | undefined) {
    this.#only = only;
    const world = (this.#world = new World(seed));
    const shardCount = world.pick([1, 2, 2, 3]);
    this.#shards = Array.from({ length: shardCount }, (_, index) => {
      const observer = {
        batch: (node: Process, commands: Parameters<Rules["batch"]>[1]) => this.#rules.batch(node, commands),
        committed: (shard: SimulatedShard, commit: Commit) => this.#rules.committed(shard, commit),
        settled: (...outcome: Parameters<Rules["settled"]>) => this.#rules.settled(...outcome),
      };
      return new SimulatedShard(`shard-${index}` as ShardId, world.start(`db-${index}`), observer);
    });
    this.#rules = new Rules(this.#shards);
    this.#network = new Network(this.#rules);
    const owners = Array.from(
      { length: SLOT_COUNT },
      (_, slot) => this.#shards[Math.floor((slot * shardCount) / SLOT_COUNT)] as SimulatedShard,
    );
    for (const [slot, owner] of owners.entries()) owner.owned.add(slot as Slot);
    this.#catalog = new SimulatedCatalog(
      this.#shards.map(({ id }) => id),
      owners.map(({ id }) => id),
    );
    this.#redis = world.chance(0.6) ? new SimulatedRedis() : undefined;
    this.#broker = new SimulatedBroker(world.start("rabbitmq"), this.#rules);
    this.#views = new SimulatedViews(world.start("db-views"));
    this.#readSides = world.pick([["read-side-0"], ["read-side-0", "read-side-1"]]).map((name) => ({
      process: world.start(name),
    }));
    this.#settings = {
      lanes: world.pick([1, 2, 3]),
      laneBatchMax: world.pick([2, 5, 500]),
      rpcBatchMax: world.pick([2, 5, 500]),
      cacheEventsMax: world.pick([1, 2, 100]),
    };
    this.#seats = ["router-0", "router-1"].map((name) => ({ name, router: undefined, open: new Set() }));
    this.#scene = {
      world,
      rules: this.#rules,
      network: this.#network,
      shards: this.#shards,
      catalog: this.#catalog,
      redis: this.#redis,
      broker: this.#broker,
      views: this.#views,
      readSides: this.#readSides,
      seats: this.#seats,
      nodes: this.#nodes,
      events: this.#events,
      answersLost: 0,
      startNode: (name, shard) => this.#startNode(name, shard),
      startRouter: (seat) => this.#startRouter(seat),
      startReadSide: (readSide) => this.#startReadSide(readSide),
    };
  }

  async run(): Promise<Told> {
    const world = this.#world;
    useNetwork(this.#network);
    world.after(0, () => void this.#all());
    try {
      await runWorld(world, () => this.#done || this.#rules.broken !== undefined, RUN_MAX_MS);
    } catch (error) {
      this.#rules.break("F8", String(error));
    }
    const { broken, answers } = this.#rules;
    const { seed, lines, hash } = world;
    return { seed, broken, lines, hash, answers, faults: this.#faults, simulatedMs: world.now };
  }

  async #all(): Promise<void> {
    const world = this.#world;
    for (const shard of this.#shards)
      for (let index = world.pick([0, 0, 1]); index >= 0; index -= 1)
        this.#startNode(`${shard.id.replace("shard", "node")}-${index}`, shard);
    await world.sleep(20);
    for (const seat of this.#seats) this.#startRouter(seat);
    await world.sleep(30);
    const count = world.pick([1, 2, 3, 4]);
    for (let index = 0; index < count; index += 1) await this.#create();
    await world.sleep(OPEN_MS - world.now);

    this.#chooseFaults(this.#only);
    let isOver = false;
    // They begin with nothing, while others sell.
    for (const readSide of this.#readSides)
      world.after(world.between(0, 1_500), () => this.#startReadSide(readSide));
    const followers = this.#shards.map((shard) => new Follower(shard, this.#nodes, this.#rules));
    const following = followers.map(async (follower) => follower.follow(() => isOver));
    const clients = [
      ...Array.from({ length: world.pick([3, 6, 10]) }, async (_, index) => this.#buyer(`buyer-${index}`)),
      ...Array.from({ length: world.pick([0, 2, 6]) }, async () => this.#guest()),
      ...Array.from({ length: world.pick([1, 3]) }, async () => this.#reader()),
      ...(world.chance(0.5) ? [this.#organizer()] : []),
      ...(world.chance(0.15) ? [this.#greedy()] : []),
      ...(world.chance(0.3) ? [this.#crowd()] : []),
    ];
    await Promise.all(clients);
    if (this.#faults.length > 0) await this.#recover();
    for (const look of this.#receipts) await this.#ask({ ...look, router: this.#router() });
    await this.#serveAll();
    isOver = true;
    await Promise.all(following);
    await this.#checkViews();
    this.#rules.checkEnd();
    this.#done = true;
  }

  async #recover(): Promise<void> {
    const world = this.#world;
    const { disturbances } = this.#rules;
    const mended = Math.max(HEAL_MS, ...disturbances.map(({ until }) => until));
    await world.sleep(mended + RECOVERED_MS - world.now);
    // From now on nothing that was wrong is an excuse.
    disturbances.length = 0;
    for (const { event, user, key } of this.#rules.doubtful) await this.#retry(event, user, key);
  }

  async #retry(event: EventId, user: string, key: string | undefined): Promise<void> {
    const again = this.#wanted.get(`${user} ${key}`);
    // Who asks again wants to know now.
    const kind = again?.kind === "request" ? "book" : again?.kind;
    if (again !== undefined && kind !== undefined)
      await this.#ask({ ...again, kind, event, router: this.#router() });
  }

  /** After everything each router sells and shows each event. */
  async #serveAll(): Promise<void> {
    for (const { router } of this.#seats) {
      if (router === undefined) continue;
      await this.#create(router.process);
      for (const event of this.#events) {
        await this.#ask({ kind: "event", router: router.process, event });
        await this.#ask({
          kind: "book",
          router: router.process,
          event,
          user: this.#newGuest(),
          quantity: 1,
          keyless: true,
        });
      }
    }
  }

  // Clients.

  async #buyer(user: string): Promise<void> {
    const world = this.#world;
    let keys = 0;
    const held: string[] = [];
    while (world.now < HEAL_MS) {
      await world.sleep(world.between(0, 250));
      const event = world.pick(this.#events);
      const [booking] = held;
      if (booking !== undefined && world.chance(0.6)) {
        const kind = world.pick(["confirm", "cancel", "booking"] as const);
        if (kind === "cancel") this.#rules.cancelling(booking);
        await this.#ask({ kind, router: this.#router(), booking, user });
        if (kind !== "booking" || world.chance(0.3)) held.shift();
        continue;
      }
      const kind = world.pick(["book", "book", "hold"] as const);
      const key = `${user}-${(keys += 1)}`;
      const wish = { kind, event, user, key, quantity: world.pick([1, 1, 2, 3]) };
      if (world.chance(0.3)) {
        await this.#request({ ...wish, kind: "request" });
        continue;
      }
      for (let tries = 0; tries < RETRIES_MAX; tries += 1) {
        const heard = await this.#ask({ ...wish, router: this.#router() });
        if (heard?.status === 201) held.push((heard.body as { id: string }).id);
        const isUnknown = heard === undefined || (heard.body as { code?: string }).code === "outcome_unknown";
        if (!isUnknown && !world.chance(0.05)) break;
        await world.sleep(world.between(50, 1_000));
      }
    }
  }

  /** Prefers not to wait, and looks at the receipt now and then. Who gets no receipt goes away. */
  async #request(wish: Omit<Wish, "router">): Promise<void> {
    const world = this.#world;
    const heard = await this.#ask({ ...wish, router: this.#router() });
    if (heard?.status !== 202) return;
    const { receipt, bookingId } = heard.body as { receipt: string; bookingId: string };
    const look = {
      kind: "receipt",
      event: wish.event,
      user: wish.user,
      receipt,
      booking: bookingId,
    } as const;
    for (let looks = world.pick([0, 1, 3, 6]); looks > 0; looks -= 1) {
      await world.sleep(world.between(5, 600));
      await this.#ask({ ...look, router: this.#router() });
    }
    this.#receipts.push(look);
  }

  /** Clients without a key want one booking each. When the outcome is unknown they ask again, with the key that they are told. */
  async #guest(): Promise<void> {
    const world = this.#world;
    while (world.now < HEAL_MS) {
      await world.sleep(world.between(0, 200));
      const event = world.pick(this.#events);
      let wish: Omit<Wish, "router"> = {
        kind: "book",
        event,
        user: this.#newGuest(),
        quantity: 1,
        keyless: true,
      };
      for (let tries = 0; tries < RETRIES_MAX; tries += 1) {
        const heard = await this.#ask({ ...wish, router: this.#router() });
        if ((heard?.body as { code?: string } | undefined)?.code !== "outcome_unknown") break;
        wish = { ...wish, key: heard?.headers["idempotency-key"] };
        await world.sleep(world.between(50, 1_000));
      }
    }
  }

  /** Floods one event, with keys of his own or one key again and again. Nobody else may wait for him. */
  async #greedy(): Promise<void> {
    const world = this.#world;
    await world.sleep(world.between(0, 2_000));
    const event = world.pick(this.#events);
    const oneKey = world.chance(0.3);
    const kind = world.pick(["book", "hold"] as const);
    const flood = Array.from({ length: world.pick([50, 150, 300]) }, async (_, index) => {
      await world.sleep(world.between(0, 150));
      const key = `greedy-${oneKey ? 0 : index}`;
      const router = this.#router();
      await this.#ask({ kind, router, event, user: "greedy", key, quantity: 1, greedy: true });
    });
    await Promise.all(flood);
  }

  /** Many who do not wait for the decision want tickets of one event at once. */
  async #crowd(): Promise<void> {
    const world = this.#world;
    await world.sleep(world.between(0, 2_000));
    const event = world.pick(this.#events);
    const requests = Array.from({ length: world.pick([5, 20, 40]) }, async (_, index) => {
      await world.sleep(world.between(0, 100));
      const user = `crowd-${index}`;
      await this.#request({ kind: "request", event, user, key: user, quantity: 1 });
    });
    await Promise.all(requests);
  }

  async #reader(): Promise<void> {
    const world = this.#world;
    while (world.now < HEAL_MS) {
      await world.sleep(world.between(5, 250));
      await this.#ask({ kind: "event", router: this.#router(), event: world.pick(this.#events) });
    }
  }

  async #organizer(): Promise<void> {
    const world = this.#world;
    while (world.now < HEAL_MS) {
      await world.sleep(world.between(100, 900));
      if (world.chance(0.3)) await this.#create();
      else
        await this.#ask({
          kind: "change",
          router: this.#router(),
          event: world.pick(this.#events),
          changes: world.pick([
            { totalTickets: world.pick([1, 3, 6, 9]) },
            { status: world.pick(["on_sale", "on_sale", "paused"]) },
            { maxPerUser: world.pick([1, 2, 4]) },
          ]),
        });
    }
  }

  async #create(router = this.#router()): Promise<void> {
    const world = this.#world;
    const wish = { totalTickets: world.pick([1, 3, 5, 8]), maxPerUser: world.pick([1, 2, 4]) };
    const heard = await this.#ask({ kind: "create", router, changes: wish });
    if (heard?.status === 201) this.#events.push((heard.body as Event).id);
  }

  #newGuest(): string {
    return `guest-${(this.#guests += 1)}`;
  }

  #router(): Process {
    const up = this.#seats.flatMap(({ router }) => router ?? []);
    return this.#world.pick(up).process;
  }

  /** One request, as far as its client sees it. */
  async #ask(wish: Wish): Promise<Heard> {
    const world = this.#world;
    if (wish.key !== undefined) this.#wanted.set(`${wish.user} ${wish.key}`, wish);
    const seat = this.#seats.find(({ router }) => router?.process === wish.router);
    const asked: Asked = { ...wish, at: world.now };
    const heard = await this.#sent(seat, wish);
    this.#rules.answered(asked, heard);
    return heard;
  }

  #sent(seat: Seat | undefined, wish: Wish): Promise<Heard> {
    const world = this.#world;
    const { promise, resolve } = Promise.withResolvers<Heard>();
    const { router } = seat ?? {};
    if (seat === undefined || router === undefined) return Promise.resolve(undefined);
    const gone = (): void => resolve(undefined);
    seat.open.add(gone);
    const timeout = world.after(CLIENT_TIMEOUT_MS, gone);
    let status = 0;
    let headers: Readonly<Record<string, string>> = {};
    let text = "";
    const hearer = {
      head: (code: number, given: typeof headers) => ([status, headers] = [code, given]),
      data: (piece: Buffer) => (text += piece.toString()),
      end: () => {
        const isLost = world.chance(this.#scene.answersLost);
        const heard = isLost ? undefined : { status, headers, body: JSON.parse(text) as unknown };
        world.after(world.between(0.1, 1), () => resolve(heard), undefined);
      },
    };
    world.after(
      world.between(0.1, 1),
      () => void give(router.server, requestOf(wish), hearer),
      router.process,
    );
    return promise.finally(() => {
      timeout.cancelled = true;
      seat.open.delete(gone);
    });
  }

  // Processes.

  get #surroundings(): Surroundings {
    return { redis: this.#redis, broker: this.#broker };
  }

  #startNode(name: string, shard: SimulatedShard): void {
    const url = `http://${name}:8081`;
    const process = this.#world.start(name, this.#world.pick([0, 0, 40, -900]));
    const node = startNode(process, shard, this.#catalog, this.#surroundings, url, this.#settings);
    this.#network.listen(url, node);
    this.#nodes.set(name, node);
  }

  #startRouter(seat: Seat): void {
    const process = this.#world.start(seat.name, this.#world.pick([0, 0, 100, -700]));
    const urls = [...this.#nodes.values()].map(({ url }) => url);
    seat.router = startRouter(process, urls, this.#surroundings, this.#settings, this.#rules);
  }

  #startReadSide(readSide: ReadSide): void {
    this.#world.kill(readSide.process);
    readSide.process = this.#world.start(readSide.process.name);
    const urls = [...this.#nodes.values()].map(({ url }) => url);
    startReadSide(readSide.process, this.#views, this.#shards, urls);
  }

  /** The read side gets to know everything, and counts each booking once. */
  async #checkViews(): Promise<void> {
    const world = this.#world;
    for (const until = world.now + VIEWS_READY_MS; ; await world.sleep(50)) {
      const behind = this.#shards.find((shard) => !this.#views.hasAll(shard));
      if (behind === undefined) break;
      if (world.now > until)
        return this.#rules.break("V1", `the read side does not get to the end of ${behind.id}`);
    }
    const difference = this.#views.difference(this.#shards);
    if (difference !== undefined) this.#rules.break("V1", difference);
    return undefined;
  }

  /** Some faults at random moments; they end before clients do. */
  #chooseFaults(only: FaultKind | "none" | undefined): void {
    const world = this.#world;
    const count = only === undefined ? world.pick([0, 1, 1, 2, 2, 3, 5]) : world.pick([1, 2]);
    if (only === "none") return;
    for (let index = 0; index < count; index += 1) {
      const from = world.between(0, 1_500);
      const lasts = world.between(50, HEAL_MS - OPEN_MS - from);
      const kind = only ?? world.pick(FAULT_KINDS);
      this.#faults.push(kind);
      world.after(from, () => letFail(this.#scene, kind, lasts));
    }
  }
}

interface Wish extends Omit<Asked, "at"> {
  readonly changes?: object | undefined;
}

function requestOf({ kind, event, booking, user, quantity, key, receipt, changes }: Wish) {
  const organizes = kind === "create" || kind === "change";
  const headers: Record<string, string> = {
    "content-type": "application/json",
    authorization: `Bearer ${tokenFor(user ?? "organizer", organizes ? "organizer" : "buyer")}`,
    ...(key === undefined ? {} : { "idempotency-key": key }),
    ...(kind === "request" ? { prefer: "respond-async" } : {}),
  };
  const of = (method: string, path: string, body?: object) => ({
    method,
    path: `/v1/${path}`,
    headers,
    body: body === undefined ? undefined : JSON.stringify(body),
  });
  switch (kind) {
    case "book":
    case "request":
      return of("POST", `events/${event}/bookings`, { quantity });
    case "receipt":
      return of("GET", `booking-requests/${receipt}`);
    case "hold":
      return of("POST", `events/${event}/holds`, { quantity, ttlSeconds: 1 });
    case "confirm":
      return of("POST", `bookings/${booking}/confirm`, {});
    case "cancel":
      return of("DELETE", `bookings/${booking}`);
    case "booking":
      return of("GET", `bookings/${booking}`);
    case "event":
      return of("GET", `events/${event}`);
    case "change":
      return of("PATCH", `events/${event}`, changes);
    case "create":
      return of("POST", "events", { name: "Concert", startsAt: "2032-01-01T20:00:00Z", ...changes });
  }
}
