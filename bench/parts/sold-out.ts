/** The rush goes on when the last ticket is sold: one router says no, mostly out of its memory. */
import type { Figure, PartContext } from "../part.ts";
import { figuresOf, otherAnswers, rush } from "./rush.ts";

const TICKETS = 100;
const WARM_UP_SECONDS = 3;
/** They try again and again, as people do; the router knows their tokens by then. */
const USERS = 20_000;
const TARGET = { perSecond: 15_000 };

export async function soldOut(context: PartContext): Promise<readonly Figure[]> {
  const { cluster, seconds, progress } = context;
  const event = await cluster.createEvent({ totalTickets: TICKETS, maxPerUser: 1 });
  progress.show("sold-out: minting tokens");
  const tokens = await cluster.buyerTokens(USERS);
  const book = {
    method: "POST",
    paths: [`/v1/events/${event.id}/bookings`],
    body: '{"quantity":1}',
  } as const;
  const selling = await rush(context, "sold-out: selling", {
    warmUpSeconds: 0,
    seconds: 0,
    requests: { ...book, tokens: tokens.slice(0, TICKETS), first: 0 },
  });
  if (selling.counts["201"] !== TICKETS) throw new Error(`not sold out: ${otherAnswers(selling, "")}`);
  const report = await rush(context, "sold-out", {
    warmUpSeconds: WARM_UP_SECONDS,
    seconds,
    requests: { ...book, tokens, first: 0 },
  });
  return figuresOf(report, "409 sold_out", TARGET);
}
