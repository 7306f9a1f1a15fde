/** Everybody books the same event, end to end: HTTP, a token of their own, one ticket, until the commit is on disk. */
import type { Figure, PartContext } from "../part.ts";
import { figuresOf, rush } from "./rush.ts";

const WARM_UP_SECONDS = 3;
/** More users than bookings up to this rate; above it the first ones book their second ticket. */
const USERS_PER_SECOND = 15_000;
const NEVER_SOLD_OUT = 10_000_000;
const TARGET = { perSecond: 9_000, p99Ms: 100 };

export async function hotEvent(context: PartContext): Promise<readonly Figure[]> {
  const { cluster, seconds, progress } = context;
  const event = await cluster.createEvent({ totalTickets: NEVER_SOLD_OUT, maxPerUser: 2 });
  progress.show("hot-event: minting tokens");
  const tokens = await cluster.buyerTokens((WARM_UP_SECONDS + seconds) * USERS_PER_SECOND);
  const report = await rush(context, "hot-event", {
    warmUpSeconds: WARM_UP_SECONDS,
    seconds,
    requests: {
      method: "POST",
      paths: [`/v1/events/${event.id}/bookings`],
      tokens,
      body: '{"quantity":1}',
      first: 0,
    },
  });
  const { bookings } = await cluster.audit();
  const confirmed = report.counts["201"] ?? 0;
  if (bookings < confirmed)
    throw new Error(`${confirmed} bookings were confirmed, but only ${bookings} exist`);
  return figuresOf(report, "201", TARGET);
}
