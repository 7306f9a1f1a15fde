/** The same work for every shape, in turns, as processor time for a request. */
import type { BenchCluster } from "../../cluster.ts";
import { median } from "../../figures.ts";
import type { Generator } from "../../load/run.ts";
import type { Progress } from "../../progress.ts";
import { expectAnswers, type Ground, mixFor, readsOnce, spreadFor } from "../calibration/loads.ts";
import {
  measureIdle,
  measureLoad,
  type Measured,
  send,
  type Stream,
  warmUp,
} from "../calibration/measure.ts";
import type { Probe, Sample } from "../calibration/probe.ts";
import { FOUR_SHARDS, groundsOn, LARGEST, ONE_SHARD, type Shape, SHAPES, TWO_ROUTERS } from "./shapes.ts";

/** On one shard; they make batches of a size that a rush makes, too. */
const CLIENTS = 64;
/** So few that each can be read once before: memory has forgotten them when the turn of a mix comes. */
const MIX_EVENTS = 500;
const MIX_BOOKINGS = 0.05;
const ROUNDS = 3;
const IDLE_SECONDS = 2;
const WARM_UP_SECONDS = 0.6;
/** Of them each shard gets a fourth. */
const WARM_REQUESTS = 18_000;
const CLIENTS_MAX = 1_024;
/** Batches are alike when they differ by less. */
const ALIKE = 0.07;
const FITTINGS_MAX = 2;
/** A turn begins and ends. */
const TURN_SECONDS = 0.6;
const EVENTS_SECONDS = 3;
/** Loads until everything is warm, about. */
const WARM_UPS = 9;
/** One more than two for each shape. */
const TURNS = 2 * SHAPES.length + 1;

export type Work = "bookings" | "mix";

/** A load that every round has: some work, on a cluster of some shape, by so many clients. */
export interface Turn {
  readonly shape: Shape;
  readonly work: Work;
  readonly clients: number;
}

/** Medians of the rounds; processor time in microseconds a request. */
export interface TurnResult extends Turn {
  readonly total: number;
  readonly routers: number;
  readonly nodes: number;
  readonly postgres: number;
  readonly redis: number;
  readonly perSecond: number;
  readonly batch: number;
  readonly call: number;
  readonly rounds: readonly number[];
}

/** What the processes of each kind use together when nothing is asked of them: thousandths of a core. */
export interface IdleResult {
  readonly routers: number;
  readonly nodes: number;
  readonly postgres: number;
  readonly redis: number;
}

export interface ScaleResult {
  readonly turns: readonly TurnResult[];
  readonly idle: IdleResult;
  /** Cores that processes of others used. */
  readonly others: number;
}

export function scaleSeconds(seconds: number): number {
  const load = WARM_UP_SECONDS + TURN_SECONDS;
  return (
    EVENTS_SECONDS +
    IDLE_SECONDS +
    WARM_UPS * load +
    SHAPES.length * FITTINGS_MAX * load +
    TURNS * ROUNDS * (seconds + TURN_SECONDS)
  );
}

export interface Field {
  readonly cluster: BenchCluster;
  readonly probe: Probe;
  /** One for each router. */
  readonly generators: readonly Generator[];
}

export async function takeTurns(
  field: Field,
  { seconds, signal, progress }: { seconds: number; signal: AbortSignal; progress: Progress },
): Promise<ScaleResult> {
  progress.show("scale: making events");
  const grounds = await groundsOn(field.cluster);
  progress.show("scale: nothing");
  const idle = await measureIdle(field.probe, IDLE_SECONDS);
  const take = async (turn: Turn, label: string, options: { seconds: number; idle?: Sample }) => {
    signal.throwIfAborted();
    return takeTurn(field, grounds, turn, { label: `scale: ${label}`, ...options });
  };
  const turns = await findTurns(async (turn) => take(turn, "warming up", { seconds: WARM_UP_SECONDS }));
  const loads = turns.map((): Measured[] => []);
  for (let round = 1; round <= ROUNDS; round += 1) {
    const order = turns.map((turn, index) => ({ turn, index }));
    // Every other round backwards: what drifts meanwhile favours nobody.
    for (const { turn, index } of round % 2 === 1 ? order : order.toReversed())
      loads[index]?.push(await take(turn, `round ${round} of ${ROUNDS}`, { seconds, idle }));
  }
  const thousandths = (used: number) => (used / idle.seconds) * 1000;
  return {
    turns: turns.map((turn, index) => resultOf(turn, loads[index] ?? [])),
    idle: {
      routers: thousandths(idle.router + idle.listener),
      nodes: thousandths(idle.nodes),
      postgres: thousandths(idle.postgres),
      redis: thousandths(idle.redis),
    },
    others: median(loads.flat().map(({ others }) => others)),
  };
}

/**
 * Makes everything warm, and finds for each shape how many clients make batches as large as those of one shard. What a
 * booking costs depends on its batch more than on anything else, and the size of batches on how much waits for a shard:
 * shards of a real cluster, each with its own cores, have the same load and so the same batches.
 */
async function findTurns(take: (turn: Turn) => Promise<Measured>): Promise<Turn[]> {
  const warm = async (shape: Shape, work: Work, requests: number) =>
    warmUp(requests, async () => take({ shape, work, clients: CLIENTS * FOUR_SHARDS.shards }));
  await warm(FOUR_SHARDS, "bookings", WARM_REQUESTS);
  await warm(TWO_ROUTERS, "bookings", WARM_REQUESTS / 3);
  await warm(TWO_ROUTERS, "mix", WARM_REQUESTS / 3);
  const turns: Turn[] = [];
  let wanted: number | undefined;
  for (const shape of SHAPES) {
    const guess = CLIENTS * shape.shards;
    let clients = guess;
    for (let fitting = 0; fitting < FITTINGS_MAX; fitting += 1) {
      const { batched, batches } = await take({ shape, work: "bookings", clients });
      wanted ??= batched / batches; // of one shard, which comes first
      const factor = (wanted * batches) / batched;
      clients = shared(clients * factor, shape);
      if (Math.abs(factor - 1) < ALIKE) break;
    }
    turns.push({ shape, work: "bookings", clients }, { shape, work: "mix", clients: guess });
  }
  const crowd = turns.find(({ shape }) => shape === FOUR_SHARDS)?.clients ?? CLIENTS;
  return [...turns, { shape: ONE_SHARD, work: "bookings", clients: crowd }];
}

/** A number of clients that can be shared among the routers. */
function shared(clients: number, { routers }: Shape): number {
  return Math.min(CLIENTS_MAX, Math.max(1, Math.round(clients / routers)) * routers);
}

async function takeTurn(
  { cluster, probe, generators }: Field,
  grounds: ReadonlyMap<Shape, Ground>,
  { shape, work, clients }: Turn,
  { label, ...options }: { label: string; seconds: number; idle?: Sample },
): Promise<Measured> {
  const ground = grounds.get(shape);
  if (ground === undefined) throw new Error(`there are no events for ${shape.name}`);
  const streams = generators.slice(0, shape.routers).map((generator, router): Stream => {
    const group = SHAPES.indexOf(shape) * LARGEST.routers + router;
    const requests =
      work === "mix" ? mixFor(ground, MIX_BOOKINGS, { group, events: MIX_EVENTS }) : spreadFor(ground, group);
    return { generator, router, connections: clients / shape.routers, requests };
  });
  const name = `${label}, ${work}, ${shape.name}`;
  if (work === "mix") {
    const requests = readsOnce(ground, MIX_EVENTS);
    for (const stream of streams) await send(cluster, { ...stream, requests }, { label: name, seconds: 0 });
  }
  const measured = await measureLoad({ cluster, probe }, streams, { label: name, ...options });
  expectAnswers(name, measured, work === "mix" ? ["read", "confirmed"] : ["confirmed"]);
  ground.spreadBookings += measured.sent;
  return measured;
}

function resultOf(turn: Turn, loads: readonly Measured[]): TurnResult {
  const of = (value: (load: Measured) => number) => median(loads.map(value));
  const micro = (seconds: number, { requests }: Measured) => (seconds * 1e6) / requests;
  const total = (load: Measured) =>
    micro(load.router + load.listener + load.nodes + load.postgres + load.redis, load);
  return {
    ...turn,
    total: of(total),
    routers: of((load) => micro(load.router + load.listener, load)),
    nodes: of((load) => micro(load.nodes, load)),
    postgres: of((load) => micro(load.postgres, load)),
    redis: of((load) => micro(load.redis, load)),
    perSecond: of(({ perSecond }) => perSecond),
    batch: of(({ batched, batches }) => batched / batches),
    call: of(({ carried, calls }) => carried / calls),
    rounds: loads.map(total),
  };
}
