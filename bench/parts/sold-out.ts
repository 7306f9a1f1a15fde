/**
 * The rush goes on when the last ticket is sold: one router refuses, mostly out of its memory, another buyer each time. The
 * router has a core to itself, and the load has the other one. Reads from memory, in turns with the refusals, show what a
 * request costs that is no booking.
 */
import { bookingsOf, readsOf } from "../load/plans.ts";
import { latencyPlot, throughputPlot } from "../load/plots.ts";
import { atLeast, type Figure, median, type Outcome, type PartContext } from "../part.ts";
import { pin } from "../processes.ts";
import { figuresOf, otherAnswers, rush, type RushReport } from "./rush.ts";

const TICKETS = 100;
const WARM_UP_SECONDS = 2;
const ROUNDS = 4;
/** Everybody comes once: a rush has more people than one router can refuse in that time. */
const USERS_PER_SECOND = 30_000;
const ROUTER_CORE = 0;
const LOAD_CORE = 1;
const TARGET = { ofReads: 0.6 };

export async function soldOut(context: PartContext): Promise<Outcome> {
  const { cluster, seconds } = context;
  const event = await cluster.createEvent({ totalTickets: TICKETS, maxPerUser: 1 });
  const { secret } = cluster;
  const users = Math.ceil((WARM_UP_SECONDS + seconds) * USERS_PER_SECOND);
  const selling = await rush(context, "sold-out: selling", {
    warmUpSeconds: 0,
    seconds: 0,
    requests: bookingsOf([event.id], { secret, users: TICKETS }),
  });
  if (selling.counts["201"] !== TICKETS) throw new Error(`not sold out: ${otherAnswers(selling, "")}`);

  using pinned = pin(cluster.router.pid, ROUTER_CORE);
  const refusals: RushReport[] = [];
  const reads: RushReport[] = [];
  const each = { warmUpSeconds: WARM_UP_SECONDS / ROUNDS, seconds: seconds / ROUNDS, loadCore: LOAD_CORE };
  let first: number = TICKETS;
  for (let round = 0; round < ROUNDS; round += 1) {
    const requests = bookingsOf([event.id], { secret, users, first });
    const refused = await rush(context, "sold-out", { ...each, requests });
    first += refused.sent;
    refusals.push(refused);
    reads.push(await rush(context, "sold-out: reads", { ...each, requests: readsOf([event.id]) }));
  }
  const last = refusals.at(-1) ?? selling;
  const where = pinned.pinned ? "router and load on a core each" : "cores shared: no taskset here";
  const named = [{ name: "onsale", report: last }];
  return {
    figures: [...figuresOf(last, "409 sold_out", {}), ...shareOfReads(refusals, reads, where)],
    plots: [
      latencyPlot("Latency of refusals", named),
      throughputPlot("Refusals over time", named, ["refused"]),
    ],
  };
}

/** How many refusals the router gives for each read, by the clock and by its processor time. */
function shareOfReads(
  refusals: readonly RushReport[],
  reads: readonly RushReport[],
  where: string,
): readonly Figure[] {
  const ofReads = (perSecond: (report: RushReport, answer: string) => number): number[] =>
    refusals.map(
      (report, round) => perSecond(report, "409 sold_out") / perSecond(reads[round] ?? report, "200"),
    );
  const rates = ofReads((report, answer) => (report.counts[answer] ?? 0) / report.seconds);
  const costs = ofReads((report) => 1 / report.microsecondsPerRequest.router);
  const figure = (name: string, shares: readonly number[], note: string): Figure => ({
    name,
    value: median(shares),
    unit: "ratio",
    target: atLeast(TARGET.ofReads, median(shares), "ratio"),
    note: `rounds ${shares.map((share) => share.toFixed(2)).join(" ")}; ${note}`,
  });
  return [
    figure("refusals as a share of reads from memory", rates, where),
    figure("the same by processor time of the router", costs, "what counts on a machine that others use"),
  ];
}
