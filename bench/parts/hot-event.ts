/** Everybody books the same event, end to end: HTTP, a token of their own, one ticket, until the commit is on disk. */
import { latencyPlot, throughputPlot } from "../load/plots.ts";
import type { RequestPlan } from "../load/plan.ts";
import { bookingsOf } from "../load/plans.ts";
import type { BenchCluster } from "../bench-cluster.ts";
import { atMost, type Figure, type Outcome, type PartContext } from "../part.ts";
import type { EventId } from "../../shared/domain/ids.ts";
import { figuresOf, rush } from "./rush.ts";

const WARM_UP_SECONDS = 3;
/** With two tickets each enough for twice as many bookings; beyond that a user would be refused, rightly. */
const USERS_PER_SECOND = 15_000;
const NEVER_SOLD_OUT = 10_000_000;
const TARGET = { perSecond: 9_000, p99Ms: 100 };
/** Microseconds of processor time a booking. */
const COST_TARGET = { router: 40, nodes: 14 };

export async function hotEvent(context: PartContext): Promise<Outcome> {
  const { cluster, seconds } = context;
  const report = await rush(context, "hot-event", {
    warmUpSeconds: WARM_UP_SECONDS,
    seconds,
    requests: await bookingsOfOneEvent(cluster, WARM_UP_SECONDS + seconds),
  });
  const { bookings } = await cluster.audit();
  const confirmed = report.allClasses.confirmed;
  if (bookings < confirmed)
    throw new Error(`${confirmed} bookings were confirmed, but only ${bookings} exist`);
  const named = [{ name: "onsale", report }];
  return {
    figures: [
      ...figuresOf(report, "201", TARGET),
      ...(["router", "nodes"] as const).map((role): Figure => {
        const value = report.microsecondsPerRequest[role];
        return {
          name: `${role}, processor time a booking`,
          value,
          unit: "µs",
          target: atMost(COST_TARGET[role], value, "µs"),
        };
      }),
    ],
    plots: [
      latencyPlot("Latency, one hot event", named),
      throughputPlot("Bookings over time, one hot event", named, ["confirmed"]),
    ],
  };
}

/** Bookings of a new event, by enough users for a load of so many seconds. */
export async function bookingsOfOneEvent(cluster: BenchCluster, seconds: number): Promise<RequestPlan> {
  return (await newHotEvent(cluster, seconds)).requests;
}

/** The same, with the event. */
export async function newHotEvent(
  cluster: BenchCluster,
  seconds: number,
): Promise<{ readonly id: EventId; readonly requests: RequestPlan }> {
  const { id } = await cluster.createEvent({ totalTickets: NEVER_SOLD_OUT, maxPerUser: 2 });
  const users = Math.ceil(seconds * USERS_PER_SECOND);
  return { id, requests: bookingsOf([id], { secret: cluster.secret, users }) };
}
