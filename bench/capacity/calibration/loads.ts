/** The kinds of requests of a calibration, and the events that they are for. */
import type { EventId } from "../../../shared/domain/ids.ts";
import type { BenchCluster } from "../../cluster.ts";
import { makeEvents } from "../../cluster-events.ts";
import type { AnswerClass, RequestMix, RequestPlan } from "../../load/plan.ts";
import type { Measured } from "./measure.ts";

/** Reads that memory answers, that Redis does and that a shard does, a refusal, and bookings of one event and of many. */
export type LoadKind = "read" | "miss" | "cold" | "refusal" | "hot" | "spread";

/** So many that hardly anybody books twice on an event: with a second ticket the database has more to look at. */
const USERS = { hot: 15_000, others: 2_000, mix: 5_000 };
/** Where the users of each group begin; those of mixes are others than those who book evenly. */
const GROUP_USERS = 10_000_000;
const MIX_FIRST = 1_000_000;
/** Nobody is refused for a few bookings too many that chance brings to one event. */
const EVENT = { totalTickets: 1_000_000, maxPerUser: 20 };
const EVENTS = 10_000;
/** So few that memory nearly always answers, and so many that it rarely does, but Redis. */
const EVENTS_IN_MEMORY = 500;
const EVENTS_IN_REDIS = 4_000;
const BODY = '{"quantity":1}';

/** Events for bookings of many. */
export interface Ground {
  readonly secret: string;
  readonly spread: readonly EventId[];
  /** Bookings of these events so far: no user comes to the same one twice. */
  spreadBookings: number;
}

export interface Stage extends Ground {
  readonly soldOut: EventId;
  /** Shards that have these events. */
  readonly shards: number;
  /** Fresh events that everybody books; each is used once. */
  readonly hot: EventId[];
}

/** Puts on sale, on the first shards, what `hotLoads` loads on a hot event, and any number of others, need. */
export async function setStage(
  cluster: BenchCluster,
  { hotLoads, shards = cluster.shards.length }: { readonly hotLoads: number; readonly shards?: number },
): Promise<Stage> {
  const first = cluster.shards.slice(0, shards);
  const spread = await eventsOn(first, EVENTS);
  const hot = await eventsOn(first, hotLoads);
  const soldOut = await cluster.createEvent({ totalTickets: 1 });
  const [token] = await cluster.buyerTokens(1);
  const answer = await fetch(`${cluster.router.url}/v1/events/${soldOut.id}/bookings`, {
    method: "POST",
    headers: { authorization: `Bearer ${token}`, "content-type": "application/json" },
    body: BODY,
  });
  if (answer.status !== 201) throw new Error(`the only ticket could not be booked: ${answer.status}`);
  return { secret: cluster.secret, shards, spread, hot, soldOut: soldOut.id, spreadBookings: 0 };
}

/** So many events on these shards, dealt to them in turns. */
export async function eventsOn(shards: BenchCluster["shards"], count: number): Promise<EventId[]> {
  return makeEvents(shards, count, EVENT);
}

/** A load of the kind `hot` uses an event up. */
export function requestsFor(kind: LoadKind, stage: Stage): RequestPlan {
  switch (kind) {
    case "read":
      return readsOf(stage.spread.slice(0, EVENTS_IN_MEMORY), "zipf");
    case "miss":
      return readsOf(stage.spread.slice(0, EVENTS_IN_REDIS), "evenly");
    case "cold":
      return readsOf(stage.spread.slice(EVENTS_IN_REDIS), "evenly");
    case "refusal":
      return { ...bookingsOf([stage.soldOut], stage, { users: USERS.others }), first: 0 };
    case "hot": {
      const event = stage.hot.pop();
      if (event === undefined) throw new Error("more loads on a hot event than were announced");
      return { ...bookingsOf([event], stage, { users: USERS.hot }), first: 0 };
    }
    case "spread":
      return spreadFor(stage);
  }
}

/** Bookings of many events evenly. Loads that share events are of different groups of users. */
export function spreadFor(ground: Ground, group = 0): RequestPlan {
  return bookingsOf(ground.spread, ground, { users: USERS.others, first: group * GROUP_USERS });
}

/** Reads and bookings of `spread` events side by side, by Zipf: bookings of few events, so each load has users of its own. */
export function mixFor(
  ground: Ground,
  bookings: number,
  { group = 0, events = ground.spread.length }: { readonly group?: number; readonly events?: number } = {},
): RequestMix {
  const booked = ground.spread.slice(0, events);
  const buyers = { users: USERS.mix, first: group * GROUP_USERS + MIX_FIRST + ground.spreadBookings };
  return {
    kinds: [
      { share: 1 - bookings, requests: readsOf(booked, "zipf") },
      { share: bookings, requests: { ...bookingsOf(booked, ground, buyers), order: "zipf" } },
    ],
  };
}

/** Throws when an answer is not of the expected class: what it costs would be put down to the wrong kind. */
export function expectAnswers(label: string, { reports }: Measured, expected: readonly AnswerClass[]): void {
  for (const { answers, classes, counts } of reports) {
    const asExpected = expected.reduce((sum, each) => sum + classes[each], 0);
    if (answers === 0 || answers !== asExpected)
      throw new Error(`${label}: other answers than expected: ${JSON.stringify(counts)}`);
  }
}

/** Reads of the first events, each once: then memory knows them. */
export function readsOnce(ground: Ground, events: number): RequestPlan {
  return readsOf(ground.spread.slice(0, events), "evenly");
}

function readsOf(events: readonly EventId[], order: "evenly" | "zipf"): RequestPlan {
  return { method: "GET", paths: events.map((id) => `/v1/events/${id}`), order, first: 0 };
}

function bookingsOf(
  events: readonly EventId[],
  { secret, spreadBookings }: Ground,
  { users, first = 0 }: { readonly users: number; readonly first?: number },
): RequestPlan {
  return {
    method: "POST",
    paths: events.map((id) => `/v1/events/${id}/bookings`),
    buyers: { secret, users, first },
    body: BODY,
    order: "evenly",
    first: spreadBookings,
  };
}
