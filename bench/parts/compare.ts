/**
 * Onsale beside what others would write: the same rules, the same PostgreSQL server, the same load, in the same run. In
 * rounds, each contender alone in its turn.
 */
import { measureRedisLoss } from "../baselines/redis-loss.ts";
import { missingPrograms } from "../baselines/start.ts";
import { type Entrant, entrantsOn, serverUrlOf } from "../compare/contenders.ts";
import { takeTurn, type Turn } from "../compare/measure.ts";
import { outcomeOf } from "../compare/outcome.ts";
import { WORKLOADS } from "../compare/workloads.ts";
import { startGenerator } from "../load/run.ts";
import type { ClusterPart, Outcome, PartContext } from "../part.ts";
import type { Cell, Table } from "../tables.ts";

const ROUNDS = 2;
/** Booting and auditing a contender, and making its events, in each turn. */
const TURN_SECONDS = 10;
const CONTENDERS = 7;
const REDIS_LOSS_SECONDS = 20;

export const compare: ClusterPart = {
  name: "compare",
  title: "onsale beside six ways in which others would write it",
  seconds: 2,
  estimate: (seconds) =>
    ROUNDS * CONTENDERS * (TURN_SECONDS + WORKLOADS.length * seconds) + REDIS_LOSS_SECONDS,
  cluster: { shards: 1 },
  run,
};

async function run(context: PartContext): Promise<Outcome> {
  const { cluster, seconds, signal, progress } = context;
  const { entrants, skipped } = entrantsOn(cluster);
  const serverUrl = serverUrlOf(cluster);
  const postgres = { serverUrl, pid: cluster.shards[0]?.postgresPid ?? 0 };
  await using generator = startGenerator({ signal, progress });
  const options = { workloads: WORKLOADS, generator, seconds, secret: cluster.secret, postgres, signal };

  const turns = new Map(entrants.map(({ name }) => [name, [] as Turn[]]));
  const failures = new Map<string, string>();
  for (let round = 0; round < ROUNDS; round += 1) {
    for (const entrant of inOrderOf(round, entrants)) {
      if (failures.has(entrant.name)) continue;
      progress.show(`compare: round ${round + 1} of ${ROUNDS}, starting ${entrant.name}`);
      const turn = await unlessItFails(signal, async () => {
        await using contender = await entrant.start(signal);
        return await takeTurn(contender, options);
      });
      if ("measurements" in turn) {
        turns.get(entrant.name)?.push(turn);
      } else {
        failures.set(entrant.name, `${entrant.name} has failed: ${turn.reason}`);
        turns.delete(entrant.name);
      }
    }
  }
  const outcome = outcomeOf(entrants, turns);

  progress.show("compare: killing the Redis of redis-counter");
  const canLose = missingPrograms("redis-counter").length === 0;
  const loss = canLose ? await unlessItFails(signal, async () => redisLoss(context, serverUrl)) : undefined;
  if (loss !== undefined && "reason" in loss)
    failures.set("loss", `what redis-counter loses could not be measured: ${loss.reason}`);
  return {
    ...outcome,
    tables: [...(outcome.tables ?? []), ...(loss === undefined || "reason" in loss ? [] : [loss])],
    notes: [...(outcome.notes ?? []), ...skipped],
    problems: [...(outcome.problems ?? []), ...failures.values()],
  };
}

/** One that fails does not spoil what the others have shown. Throws when the whole run is to end. */
async function unlessItFails<Result>(
  signal: AbortSignal,
  task: () => Promise<Result>,
): Promise<Result | { reason: string }> {
  try {
    signal.throwIfAborted();
    return await task();
  } catch (error) {
    signal.throwIfAborted();
    return { reason: error instanceof Error ? error.message : String(error) };
  }
}

/** Every other round backwards: what gets slower or faster from turn to turn meets all of them alike. */
function inOrderOf(round: number, entrants: readonly Entrant[]): readonly Entrant[] {
  return round % 2 === 0 ? entrants : entrants.toReversed();
}

/** As it is, and when the writer has fallen behind, which it does when PostgreSQL is slow for a moment. */
const WRITER_BEHIND = [0, 500];

async function redisLoss({ cluster, signal }: PartContext, postgresServerUrl: string): Promise<Table> {
  const rows: Cell[][] = [];
  for (const writerBehind of WRITER_BEHIND) {
    const options = { postgresServerUrl, secret: cluster.secret, signal, writerBehind };
    for (const { mode, ...loss } of await measureRedisLoss(options)) {
      const { confirmed, lost, oversoldAfterRestart, secondsWithoutSales } = loss;
      rows.push([mode, writerBehind, confirmed, lost, oversoldAfterRestart, secondsWithoutSales]);
    }
  }
  return {
    title: "What redis-counter loses when its Redis is killed in the middle of a sale",
    columns: [
      { name: "what Redis keeps" },
      { name: "bookings that the writer is behind" },
      { name: "tickets confirmed" },
      { name: "of these lost" },
      { name: "sold twice after the restart" },
      { name: "time without sales", unit: "s" },
    ],
    rows,
    note: "kill -9 of the process; the machine and its page cache live on. A lost booking was confirmed to its buyer and is in no database.",
  };
}
