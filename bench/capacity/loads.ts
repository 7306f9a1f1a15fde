/** The loads of the capacity part: those that tell the costs apart, and the mix that checks them. */
import type { PartContext } from "../part.ts";
import type { RequestMix, RequestPlan } from "../load/plan.ts";
import { bookingsOf, readsOf } from "../load/plans.ts";
import type { Load, LoadMeter } from "./load.ts";
import type { CostLoads } from "./needs.ts";

const EVENTS = 10_000;
/** So few events that memory nearly always answers, and so many that it rarely does. */
const READ = { fromMemory: 500, missing: 4_000 };
/** So many buyers that hardly anybody books twice on an event, and tickets enough for a few bookings that chance adds. */
const USERS = 5_000;
const EVENT = { totalTickets: 1_000_000, maxPerUser: 100 };
/** Many clients make large batches. */
const CLIENTS = { many: 256, few: 8 };
/** Everything side by side, in shares that no other load has. */
const MIX = { reads: 0.7, refusals: 0.1, bookings: 0.2 };

export interface Round {
  readonly costs: CostLoads;
  readonly mix: Load;
}

/** Puts events on sale; answers what measures all loads once, for so many seconds each. */
export async function prepareLoads(
  { cluster, signal }: PartContext,
  meter: LoadMeter,
): Promise<(label: string, seconds: number) => Promise<Round>> {
  const events = await cluster.createEvents(EVENTS, EVENT);
  const [soldOut = ""] = await cluster.createEvents(1, { totalTickets: 1 });
  let bookings = 0;
  const reads = (count: number, order: "evenly" | "zipf") => readsOf(events.slice(0, count), order);
  const book = (ids: readonly string[], order: "evenly" | "zipf") =>
    bookingsOf(ids, { secret: cluster.secret, users: USERS, order, first: bookings });
  return async (label, seconds) => {
    const measure = async (name: string, connections: number, requests: RequestPlan | RequestMix) => {
      signal.throwIfAborted();
      const load = await meter.measure(`${label}, ${name}`, { connections, seconds, requests });
      bookings += load.sent;
      return load;
    };
    const mix = [
      { share: MIX.reads, requests: reads(EVENTS, "zipf") },
      { share: MIX.refusals, requests: book([soldOut], "evenly") },
      { share: MIX.bookings, requests: book(events, "zipf") },
    ];
    return {
      costs: {
        refusals: await measure("refusals", CLIENTS.many, book([soldOut], "evenly")),
        reads: [
          await measure("reads from memory", CLIENTS.many, reads(READ.fromMemory, "zipf")),
          await measure("reads that miss", CLIENTS.many, reads(READ.missing, "evenly")),
        ],
        bookings: [
          await measure("bookings in large batches", CLIENTS.many, book(events, "evenly")),
          await measure("bookings in small batches", CLIENTS.few, book(events, "evenly")),
        ],
      },
      mix: await measure("the mix", CLIENTS.many, { kinds: mix }),
    };
  };
}
