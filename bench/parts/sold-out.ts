/**
 * The rush goes on when the last ticket is sold: one router says no, mostly out of its memory. It has a core to itself,
 * and the load has the other one.
 */
import { latencyPlot, throughputPlot } from "../load/plots.ts";
import { atLeast, type Outcome, type PartContext } from "../part.ts";
import { pin } from "../processes.ts";
import { figuresOf, otherAnswers, rush } from "./rush.ts";

const TICKETS = 100;
const WARM_UP_SECONDS = 2;
/** They try again and again, as people do. */
const USERS = 20_000;
const ROUTER_CORE = 0;
const LOAD_CORE = 1;
const TARGET = { perSecond: 25_000 };

export async function soldOut(context: PartContext): Promise<Outcome> {
  const { cluster, seconds } = context;
  const event = await cluster.createEvent({ totalTickets: TICKETS, maxPerUser: 1 });
  const book = {
    method: "POST",
    paths: [`/v1/events/${event.id}/bookings`],
    body: '{"quantity":1}',
    first: 0,
  } as const;
  const buyers = { secret: cluster.secret, users: USERS, first: 0 };
  const selling = await rush(context, "sold-out: selling", {
    warmUpSeconds: 0,
    seconds: 0,
    requests: { ...book, buyers: { ...buyers, users: TICKETS } },
  });
  if (selling.counts["201"] !== TICKETS) throw new Error(`not sold out: ${otherAnswers(selling, "")}`);

  using pinned = pin(cluster.router.pid, ROUTER_CORE);
  const report = await rush(context, "sold-out", {
    warmUpSeconds: WARM_UP_SECONDS,
    seconds,
    requests: { ...book, buyers },
    loadCore: LOAD_CORE,
  });
  const perRouterSecond = 1e6 / report.microsecondsPerRequest.router;
  const named = [{ name: "onsale", report }];
  const where = pinned.pinned ? "router and load on a core each" : "cores shared: no taskset here";
  return {
    figures: [
      ...figuresOf(report, "409 sold_out", TARGET),
      {
        name: "answers per processor second of the router",
        value: perRouterSecond,
        unit: "/s",
        target: atLeast(TARGET.perSecond, perRouterSecond, "/s"),
        note: `what counts on a machine that others use; ${where}`,
      },
    ],
    plots: [
      latencyPlot("Latency of refusals", named),
      throughputPlot("Refusals over time", named, ["refused"]),
    ],
  };
}
