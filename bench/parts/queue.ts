/**
 * Bookings that wait in the queue, beside those that are decided at once, and beside a common way to put RabbitMQ in front: one
 * hot event and the same load, in turns. Then the queue at half of what it decides, for the time until a decision.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { mintToken } from "../../router/callers/tokens.ts";
import type { EventId } from "../../shared/domain/ids.ts";
import type { Statement } from "../../shared/database/database.ts";
import { query } from "../cluster-events.ts";
import { entrantsOn, serverUrlOf } from "../compare/contenders.ts";
import { takeTurn } from "../compare/measure.ts";
import { WORKLOADS } from "../compare/workloads.ts";
import type { LoadReport } from "../load/plan.ts";
import { startGenerator } from "../load/run.ts";
import { atLeast, below, type ClusterPart, median, type Outcome, type PartContext } from "../part.ts";
import { bookingsOfOneEvent, newHotEvent } from "./hot-event.ts";
import { otherAnswers, rush } from "./rush.ts";

const ROUNDS = 2;
const WARM_UP_SECONDS = 3;
/** Until all that was accepted is decided. */
const DRAIN_MAX_MS = 120_000;
const TARGET = { accepted: 0.8, decided: 0.9, p99Ms: 250 };
const SHARE_OF_PEAK = 0.5;

// A booking's id says when its request came, and `created_at` when it was decided.
const DECIDED: Statement = {
  name: "bench-decided",
  text: `
    with decided as (
      select created_at, extract(epoch from created_at - time_of(id)) * 1000 as ms from bookings where event_id = $1
    ), counted as (
      select * from decided where created_at >= (select min(created_at) from decided) + make_interval(secs => $2)
    )
    select (select count(*)::integer from decided) as bookings,
           coalesce(count(*) / nullif(extract(epoch from max(created_at) - min(created_at)), 0), 0)::float8 as "perSecond",
           coalesce(percentile_cont(0.5) within group (order by ms), 0)::float8 as "p50Ms",
           coalesce(percentile_cont(0.99) within group (order by ms), 0)::float8 as "p99Ms"
    from counted`,
};

interface Decided {
  readonly bookings: number;
  readonly perSecond: number;
  readonly p50Ms: number;
  readonly p99Ms: number;
}

export const queue: ClusterPart = {
  name: "queue",
  title: "bookings that wait in the queue, beside those that are decided at once",
  seconds: 5,
  estimate: (seconds) => 8 + ROUNDS * (3 * (seconds + WARM_UP_SECONDS) + 10) + 2 * seconds,
  cluster: { shards: 1 },
  run,
};

interface Round {
  readonly direct: number;
  readonly accepted: number;
  readonly decided: Decided;
  readonly baseline: number;
}

async function run(context: PartContext): Promise<Outcome> {
  const { cluster, seconds, signal, progress } = context;
  const baseline = entrantsOn(cluster).entrants.find(({ name }) => name === "queue");
  if (baseline === undefined)
    return { figures: [], notes: ["the queue was left out: install rabbitmq-server"] };
  const problems: string[] = [];

  const direct = async (): Promise<number> => {
    const requests = await bookingsOfOneEvent(cluster, WARM_UP_SECONDS + seconds);
    const report = await rush(context, "queue: decided at once", {
      warmUpSeconds: WARM_UP_SECONDS,
      seconds,
      requests,
    });
    return report.classes.confirmed / report.seconds;
  };
  const beside = async (): Promise<number> => {
    await using generator = startGenerator({ signal, progress });
    await using contender = await baseline.start(signal);
    const turn = await takeTurn(contender, {
      workloads: WORKLOADS.filter(({ name }) => name === "hot"),
      generator,
      seconds,
      secret: cluster.secret,
      postgres: { serverUrl: serverUrlOf(cluster), pid: cluster.shards[0]?.postgresPid ?? 0 },
      signal,
    });
    problems.push(...turn.violations);
    const report = turn.measurements[0]?.report;
    return report === undefined ? 0 : report.classes.confirmed / report.seconds;
  };

  const rounds: Round[] = [];
  for (let round = 0; round < ROUNDS; round += 1) {
    const before = round % 2 === 0 ? await direct() : await beside();
    const queued = await queuedRush(context, "queue: accepted", problems);
    const after = round % 2 === 0 ? await beside() : await direct();
    const [ofDirect, ofBaseline] = round % 2 === 0 ? [before, after] : [after, before];
    rounds.push({
      direct: ofDirect,
      baseline: ofBaseline,
      accepted: queued.report.classes.accepted / queued.report.seconds,
      decided: queued.decided,
    });
  }
  const middle = (of: (round: Round) => number): number => median(rounds.map(of));
  const perSecond = Math.round(SHARE_OF_PEAK * middle(({ decided }) => decided.perSecond));
  const half = await queuedRush(context, "queue: at half of it", problems, perSecond);

  const acceptedShare = middle(({ accepted, direct: rate }) => accepted / rate);
  const decidedShare = middle(({ decided, direct: rate }) => decided.perSecond / rate);
  const { p99Ms } = half.decided;
  return {
    figures: [
      { name: "decided at once", value: middle((round) => round.direct), unit: "/s" },
      { name: "accepted into the queue", value: middle(({ accepted }) => accepted), unit: "/s" },
      { name: "decided out of the queue", value: middle(({ decided }) => decided.perSecond), unit: "/s" },
      { name: "the baseline queue", value: middle((round) => round.baseline), unit: "/s" },
      {
        name: "accepted, of those decided at once",
        value: acceptedShare,
        unit: "ratio",
        target: atLeast(TARGET.accepted, acceptedShare, "ratio"),
        note: "within a round; the median of the rounds",
      },
      {
        name: "decided, of those decided at once",
        value: decidedShare,
        unit: "ratio",
        target: atLeast(TARGET.decided, decidedShare, "ratio"),
        note: "until the last one is decided",
      },
      {
        name: "decided, beside the baseline queue",
        value: middle(({ decided, baseline: rate }) => decided.perSecond / rate),
        unit: "×",
      },
      {
        name: "p50 until the decision, at the peak",
        value: middle(({ decided }) => decided.p50Ms),
        unit: "ms",
      },
      {
        name: "p99 until the decision, at the peak",
        value: middle(({ decided }) => decided.p99Ms),
        unit: "ms",
      },
      { name: "p50 until the decision, at half of it", value: half.decided.p50Ms, unit: "ms" },
      {
        name: "p99 until the decision, at half of it",
        value: p99Ms,
        unit: "ms",
        target: below(TARGET.p99Ms, p99Ms, "ms"),
        note: `${perSecond.toLocaleString("en")} a second arrived, ${half.report.dropped} found no place; other answers: ${otherAnswers(half.report, "202")}`,
      },
    ],
    problems,
  };
}

/** Bookings of a new event that all wait in the queue, until each is decided. */
async function queuedRush(
  context: PartContext,
  label: string,
  problems: string[],
  perSecond?: number,
): Promise<{ report: LoadReport; decided: Decided }> {
  const { cluster, seconds, progress, signal } = context;
  const { id, requests } = await newHotEvent(cluster, WARM_UP_SECONDS + seconds);
  await takeIntoQueue(context, id);
  const report = await rush(context, label, {
    warmUpSeconds: WARM_UP_SECONDS,
    seconds,
    requests,
    ...(perSecond !== undefined && { arrivals: { perSecond } }),
  });
  progress.show(`${label}: until all are decided`);
  const deadline = performance.now() + DRAIN_MAX_MS;
  for (;;) {
    const decided = await decidedOf(context, id);
    if (decided.bookings >= report.allClasses.accepted) return { report, decided };
    if (performance.now() > deadline) {
      problems.push(
        `${report.allClasses.accepted} requests were accepted, and ${decided.bookings} have a booking`,
      );
      return { report, decided };
    }
    await sleep(100, undefined, { signal });
  }
}

async function decidedOf({ cluster }: PartContext, id: EventId): Promise<Decided> {
  const [shard] = cluster.shards;
  if (shard === undefined) throw new Error("the cluster has a shard");
  const [row] = await query<Decided>(shard, DECIDED, [id, WARM_UP_SECONDS]);
  if (row === undefined) throw new Error("an aggregate has a row");
  return row;
}

/** Throws when the event's bookings do not wait in the queue then. */
async function takeIntoQueue({ cluster }: PartContext, id: EventId): Promise<void> {
  const token = await mintToken({ secret: cluster.secret, sub: "bench", role: "organizer", ttlSeconds: 60 });
  const answer = await fetch(`${cluster.router.url}/v1/events/${id}`, {
    method: "PATCH",
    headers: { authorization: `Bearer ${token}`, "content-type": "application/json" },
    body: JSON.stringify({ intake: "queue" }),
  });
  if (!answer.ok) throw new Error(`the event does not take the queue: ${answer.status}`);
}
