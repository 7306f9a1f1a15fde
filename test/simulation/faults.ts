/** What can go wrong, each with a name. A fault knows whom it may touch; everybody else must notice nothing (F3, F4). */
import type { EventId } from "../../shared/domain/ids.ts";
import { SLOT_COUNT, type Slot, slotOf } from "../../shared/domain/slots.ts";
import type { SimulatedBroker } from "./broker.ts";
import type { Node, Router } from "./cluster.ts";
import type { Network, Trouble } from "./network.ts";
import type { Disturbance, Rules } from "./rules.ts";
import type { SimulatedShard } from "./store.ts";
import type { SimulatedCatalog, SimulatedRedis } from "./surroundings.ts";
import type { SimulatedViews } from "./views.ts";
import type { Process, World } from "./world.ts";

/** A router's place: the router of the moment, or none. */
export interface Seat {
  readonly name: string;
  router: Router | undefined;
  /** Ends the requests that a killed router leaves. */
  readonly open: Set<() => void>;
}

/** A process of the read side, which may be dead. */
export interface ReadSide {
  process: Process;
}

/** The cluster as faults find it. */
export interface Scene {
  readonly world: World;
  readonly rules: Rules;
  readonly network: Network;
  readonly shards: readonly SimulatedShard[];
  readonly catalog: SimulatedCatalog;
  readonly redis: SimulatedRedis | undefined;
  readonly broker: SimulatedBroker;
  readonly views: SimulatedViews;
  readonly readSides: readonly ReadSide[];
  readonly seats: readonly Seat[];
  readonly nodes: ReadonlyMap<string, Node>;
  readonly events: readonly EventId[];
  /** The probability that an answer is lost between router and client. */
  answersLost: number;
  startNode(name: string, shard: SimulatedShard): void;
  startRouter(seat: Seat): void;
  startReadSide(readSide: ReadSide): void;
}

interface Fault {
  readonly what: string;
  /** Whom it may touch; without a name, all. */
  readonly touches: Pick<Disturbance, "router" | "shard" | "event" | "kind" | "echoMs">;
  readonly begin: () => void;
  readonly end?: () => void;
}

/** Names no router: the fault touches no request. */
const NOBODY = { router: "nobody" };

const KINDS = {
  cut: (scene) => between(scene, { cut: true }),
  "lost calls": (scene) => between(scene, { lost: 0.4 }),
  "lost answers": (scene) => between(scene, { unanswered: 0.4 }),
  "all answers lost": (scene) => between(scene, { unanswered: 1 }),
  "broken connections": (scene) => between(scene, { broken: 0.5 }),
  "repeated calls": (scene) => between(scene, { twice: 0.4 }),
  slowness: (scene) => between(scene, { slowMs: scene.world.pick([50, 400, 3_000]) }),
  "node crash": (scene) => {
    const node = anyNode(scene);
    const { process, shard } = node;
    scene.rules.lateNews = true;
    return {
      what: process.name,
      touches: { shard: shard.id },
      begin() {
        scene.world.kill(process);
        scene.network.killed(process);
        scene.broker.left(process);
      },
      end: () => scene.startNode(process.name, shard),
    };
  },
  "node pause": (scene) => {
    const { process, shard } = anyNode(scene);
    scene.rules.lateNews = true;
    scene.rules.calmNetwork = false;
    return {
      what: process.name,
      touches: { shard: shard.id },
      begin: () => scene.world.pause(process),
      end: () => scene.world.resume(process),
    };
  },
  "router crash": (scene) => {
    const seat = scene.world.pick(scene.seats);
    // One router always serves.
    if (scene.seats.some(({ router }) => router === undefined) || seat.router === undefined) return undefined;
    const { process } = seat.router;
    return {
      what: seat.name,
      touches: { router: seat.name },
      begin() {
        scene.world.kill(process);
        scene.broker.left(process);
        seat.router = undefined;
        for (const gone of seat.open) scene.world.after(scene.world.between(0.1, 1), gone);
      },
      end: () => scene.startRouter(seat),
    };
  },
  "router pause": (scene) => {
    const seat = scene.world.pick(scene.seats);
    const process = seat.router?.process;
    if (process === undefined) return undefined;
    scene.rules.calmNetwork = false;
    return {
      what: seat.name,
      touches: { router: seat.name },
      begin: () => scene.world.pause(process),
      end: () => scene.world.resume(process),
    };
  },
  "database down": (scene) =>
    database(scene, (shard) => ({
      begin: () => (shard.trouble.down = true),
      end: () => (shard.trouble.down = false),
    })),
  "database connections break": (scene) =>
    database(scene, (shard) => ({
      begin: () => (shard.trouble.breaks = 0.5),
      end: () => (shard.trouble.breaks = 0),
    })),
  "database slow": (scene) =>
    database(scene, (shard) => ({
      begin: () => (shard.trouble.slowMs = scene.world.pick([50, 500, 6_000])),
      end: () => (shard.trouble.slowMs = 0),
    })),
  "database hangs": (scene) =>
    database(scene, (shard) => ({
      begin: () => scene.world.pause(shard.process),
      end: () => scene.world.resume(shard.process),
    })),
  "locked row": (scene, lastsMs) => {
    const event = scene.world.pick(scene.events);
    const shard = scene.shards.find(({ state }) => state.events.has(event));
    scene.rules.lateNews = true;
    return {
      what: `${event} on ${shard?.id}`,
      touches: { event },
      begin: () => shard?.lockFor(event, lastsMs),
    };
  },
  "clients lose answers": (scene) => ({
    what: "",
    touches: NOBODY,
    begin: () => (scene.answersLost = 0.3),
    end: () => (scene.answersLost = 0),
  }),
  // Only who must find a slot that has just moved is touched.
  "catalog away": (scene) => ({
    what: "",
    touches: { kind: "create" },
    begin: () => (scene.catalog.down = true),
    end: () => (scene.catalog.down = false),
  }),
  "clock jump": (scene) => {
    const { world } = scene;
    const process = world.chance(0.5) ? anyNode(scene).process : world.pick(scene.seats).router?.process;
    if (process === undefined) return undefined;
    return {
      what: process.name,
      touches: NOBODY,
      begin: () => void (process.skewMs += world.pick([-3_600_000, 3_600_000])),
    };
  },
  "slots move": (scene) => ({
    what: "",
    // Once the new owner has them, a router that does not know it yet finds it by itself (R4).
    touches: { kind: "create", echoMs: 0 },
    begin: () => moveEmptySlots(scene),
  }),
  "broker away": (scene) => ({
    what: "",
    touches: { kind: "request" },
    begin: () => (scene.broker.down = true),
    end: () => (scene.broker.down = false),
  }),
  "broker loses confirmations": (scene) => ({
    what: "",
    touches: { kind: "request" },
    begin: () => (scene.broker.loses = 0.5),
    end: () => (scene.broker.loses = 0),
  }),
  "broker delivers again": (scene, lastsMs) => ({
    what: "",
    touches: { kind: "request" },
    begin: () => {
      const { world } = scene;
      for (let at = 0; at < lastsMs; at += world.between(5, 100))
        world.after(at, () => scene.broker.loseConnections());
    },
  }),
  // Nobody who books or reads an event may notice anything of these.
  "read side crash": (scene) => {
    const readSide = scene.world.pick(scene.readSides);
    return {
      what: readSide.process.name,
      touches: NOBODY,
      begin: () => scene.world.kill(readSide.process),
      end: () => scene.startReadSide(readSide),
    };
  },
  "read side pause": (scene) => {
    const { process } = scene.world.pick(scene.readSides);
    return {
      what: process.name,
      touches: NOBODY,
      begin: () => scene.world.pause(process),
      end: () => scene.world.resume(process),
    };
  },
  "read side's database hangs": ({ world, views }) => ({
    what: "",
    touches: NOBODY,
    begin: () => world.pause(views.process),
    end: () => world.resume(views.process),
  }),
  "read side's connections break": ({ views }) => ({
    what: "",
    touches: NOBODY,
    begin: () => (views.breaks = 0.5),
    end: () => (views.breaks = 0),
  }),
  "Redis away": (scene) =>
    redis(scene, (store) => ({ begin: () => (store.down = true), end: () => (store.down = false) })),
  "Redis hangs": (scene) =>
    redis(scene, (store) => ({ begin: () => (store.hangs = true), end: () => (store.hangs = false) })),
  "Redis loses everything": (scene) => redis(scene, (store) => ({ begin: () => store.flush() })),
  "Redis cut off": (scene) => {
    const { name } = scene.world.chance(0.5) ? anyNode(scene).process : scene.world.pick(scene.seats);
    return redis(scene, (store) => ({
      what: name,
      begin: () => void store.cutOff.add(name),
      end: () => void store.cutOff.delete(name),
    }));
  },
} satisfies Record<string, (scene: Scene, lastsMs: number) => Fault | undefined>;

export type FaultKind = keyof typeof KINDS;
export const FAULT_KINDS = Object.keys(KINDS) as FaultKind[];

/** Lets something go wrong for a while. Returns what. */
export function letFail(scene: Scene, kind: FaultKind, lastsMs: number): void {
  const { world, rules } = scene;
  const fault: Fault | undefined = KINDS[kind](scene, lastsMs);
  if (fault === undefined) return;
  world.note(`FAULT ${kind} ${fault.what} for ${lastsMs.toFixed()} ms`);
  rules.disturbances.push({ what: kind, from: world.now, until: world.now + lastsMs, ...fault.touches });
  fault.begin();
  world.after(lastsMs, () => fault.end?.());
}

function anyNode({ world, nodes }: Scene): Node {
  return world.pick([...nodes.values()]);
}

function between(scene: Scene, trouble: Trouble): Fault {
  const { world, rules, network, seats } = scene;
  const { process, shard } = anyNode(scene);
  const router = world.chance(0.5) ? { router: world.pick(seats).name } : {};
  const placed = { ...trouble, ...router, node: process.name };
  rules.calmNetwork = false;
  return {
    what: `between ${router.router ?? "all routers"} and ${process.name}`,
    touches: { ...router, shard: shard.id },
    begin: () => void network.troubles.add(placed),
    end: () => void network.troubles.delete(placed),
  };
}

function database(
  { world, rules, shards }: Scene,
  how: (shard: SimulatedShard) => Pick<Fault, "begin" | "end">,
): Fault {
  const shard = world.pick(shards);
  rules.lateNews = true;
  return { what: shard.id, touches: { shard: shard.id }, ...how(shard) };
}

function redis(
  { redis: store, rules }: Scene,
  how: (store: SimulatedRedis) => Pick<Fault, "begin" | "end"> & { readonly what?: string },
): Fault | undefined {
  if (store === undefined) return undefined;
  rules.lateNews = true;
  return { what: "", touches: NOBODY, ...how(store) };
}

/** As migrations/shards.ts does it: the old owner gives slots up, the map changes, the new owner takes them. */
function moveEmptySlots({ world, shards, catalog, rules }: Scene): void {
  const to = world.pick(shards);
  const first = Math.floor(world.between(0, SLOT_COUNT / 2));
  const taken = new Set(shards.flatMap(({ state }) => [...state.events.keys()].map(slotOf)));
  const moving = Array.from({ length: SLOT_COUNT / 2 }, (_, index) => (first + index) as Slot).filter(
    (slot) => {
      const owner = shards.find(({ owned }) => owned.has(slot));
      if (owner === undefined || owner === to || taken.has(slot)) return false;
      rules.formerOwners.set(slot, [...(rules.formerOwners.get(slot) ?? []), owner.id]);
      return owner.owned.delete(slot);
    },
  );
  world.after(world.between(0, 100), () => {
    catalog.give(moving, to.id);
    world.after(world.between(0, 200), () => {
      for (const slot of moving) to.owned.add(slot);
    });
  });
}
