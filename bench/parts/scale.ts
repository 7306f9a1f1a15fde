/**
 * Does a booking cost the same on 1, 2 and 4 shards? Two cores carry no more with four shards than with one, so processor time
 * is compared and not rates. All shards are those of one cluster, and only the events differ: other processes would be
 * differently warm, which counts for more than the number of shards. Clients are so many that batches are alike, because
 * what a booking costs depends on its batch more than on anything else.
 */
import { PROCESSES, type Load, LoadMeter, totalOf } from "../capacity/load.ts";
import { makeEvents } from "../cluster-events.ts";
import { bookingsOf } from "../load/plans.ts";
import { startGenerator } from "../load/run.ts";
import { atMost, type ClusterPart, type Figure, median, type Outcome, type PartContext } from "../part.ts";

const SHARDS = [1, 2, 4] as const;
const EVENTS = 10_000;
const EVENT = { totalTickets: 1_000_000, maxPerUser: 20 };
const USERS = 2_000;
const CLIENTS_A_SHARD = 64;
const CLIENTS_MAX = 1_024;
const ROUNDS = 5;
const WARM_UP_SECONDS = 3;
const DEARER_MAX = 1.1;

export const scale: ClusterPart = {
  name: "scale",
  title: "what a booking costs on 1, 2 and 4 shards",
  seconds: 1,
  estimate: (seconds) => 30 + SHARDS.length * (2 * WARM_UP_SECONDS + ROUNDS * (seconds + 0.5)),
  cluster: { shards: 4 },
  run,
};

/** Bookings of events that lie on so many of the shards. */
interface Turn {
  readonly shards: number;
  readonly events: readonly string[];
  clients: number;
  bookings: number;
  readonly loads: Load[];
}

async function run(context: PartContext): Promise<Outcome> {
  const { cluster, seconds, signal } = context;
  await using generator = startGenerator(context);
  const turns = await Promise.all(
    SHARDS.map(async (shards): Promise<Turn> => {
      const events = await makeEvents(cluster.shards.slice(0, shards), EVENTS, EVENT);
      return { shards, events, clients: CLIENTS_A_SHARD * shards, bookings: 0, loads: [] };
    }),
  );
  const meter = await LoadMeter.start(cluster, generator);
  const book = async (turn: Turn, label: string, loadSeconds: number): Promise<Load> => {
    signal.throwIfAborted();
    const load = await meter.measure(`scale: ${label}, ${turn.shards} shards`, {
      connections: turn.clients,
      seconds: loadSeconds,
      requests: bookingsOf(turn.events, {
        secret: cluster.secret,
        users: USERS,
        order: "evenly",
        first: turn.bookings,
      }),
    });
    turn.bookings += load.sent;
    return load;
  };
  let wanted: number | undefined;
  for (const turn of turns) {
    await book(turn, "warming up", WARM_UP_SECONDS);
    const batch = batchOf(await book(turn, "finding the number of clients", WARM_UP_SECONDS));
    wanted ??= batch; // of one shard, which comes first
    turn.clients = Math.min(CLIENTS_MAX, Math.max(1, Math.round((turn.clients * wanted) / batch)));
  }
  for (let round = 1; round <= ROUNDS; round += 1) {
    // Every other round backwards: what drifts meanwhile favours none.
    for (const turn of round % 2 === 1 ? turns : turns.toReversed())
      turn.loads.push(await book(turn, `round ${round} of ${ROUNDS}`, seconds));
  }
  return {
    figures: turns.slice(1).map((turn) => besideOne(turn, turns[0] ?? turn)),
    tables: [
      {
        title: "Processor time of a booking, medians of the rounds",
        columns: [
          { name: "shards" },
          { name: "clients" },
          { name: "in a batch", unit: "ratio" },
          { name: "all", unit: "µs" },
          ...PROCESSES.filter((name) => name !== "hearing").map((name) => ({ name, unit: "µs" as const })),
        ],
        rows: turns.map(({ shards, clients, loads }) => [
          shards,
          clients,
          median(loads.map(batchOf)),
          median(loads.map(costOf)),
          ...PROCESSES.filter((name) => name !== "hearing").map((name) =>
            median(loads.map(({ spent, done }) => spent[name] / done.bookings)),
          ),
        ]),
      },
    ],
    notes: [
      "four nodes and four databases share the caches of one machine here, which makes them look dearer",
    ],
  };
}

function besideOne({ shards, loads }: Turn, one: Turn): Figure {
  const ratios = loads.map((load, round) => costOf(load) / costOf(one.loads[round] ?? load));
  const value = median(ratios);
  return {
    name: `a booking: ${shards} shards beside 1`,
    value,
    unit: "×",
    ...(shards === Math.max(...SHARDS) && { target: atMost(DEARER_MAX, value, "×") }),
    note: `rounds ${ratios.map((ratio) => ratio.toFixed(2)).join(" ")}`,
  };
}

const batchOf = ({ done }: Load) => done.bookings / done.batches;
const costOf = ({ done, spent }: Load) => totalOf(spent) / done.bookings;
