/** The workloads of every contender: bookings by users with tokens over 256 connections, as fast as possible. */
import type { NewEvent } from "../baselines/contender.ts";
import { bookingsOf } from "../load/plans.ts";
import type { AnswerClass, RequestOrder, RequestPlan } from "../load/plan.ts";
import { newEventId } from "../../shared/domain/ids.ts";

export interface Workload {
  readonly name: "hot" | "evenly" | "zipf" | "sold-out";
  readonly title: string;
  readonly events: number;
  readonly ticketsAnEvent: number;
  readonly order: RequestOrder;
  /** The answers that the workload counts. */
  readonly counted: AnswerClass & ("confirmed" | "refused");
}

const MANY = 10_000;
const NEVER_SOLD_OUT = 10_000_000;

export const WORKLOADS: readonly Workload[] = [
  {
    name: "hot",
    title: "one hot event",
    events: 1,
    ticketsAnEvent: NEVER_SOLD_OUT,
    order: "in turns",
    counted: "confirmed",
  },
  {
    name: "evenly",
    title: "10,000 events evenly",
    events: MANY,
    ticketsAnEvent: NEVER_SOLD_OUT,
    order: "evenly",
    counted: "confirmed",
  },
  {
    name: "zipf",
    title: "10,000 events, Zipf 1.0",
    events: MANY,
    ticketsAnEvent: NEVER_SOLD_OUT,
    order: "zipf",
    counted: "confirmed",
  },
  {
    // The first request of the warm-up gets the only ticket.
    name: "sold-out",
    title: "one hot event, sold out",
    events: 1,
    ticketsAnEvent: 1,
    order: "in turns",
    counted: "refused",
  },
];

/** Users of one load; nobody has to book an event more than twice below 80,000 requests, which 256 connections do not make. */
const USERS = 40_000;
const MAX_PER_USER = 2;

export function newEventsFor({ events, ticketsAnEvent }: Workload): NewEvent[] {
  return Array.from({ length: events }, () => ({
    id: newEventId(Date.now()),
    totalTickets: ticketsAnEvent,
    maxPerUser: MAX_PER_USER,
  }));
}

export function requestsFor({ order }: Workload, events: readonly NewEvent[], secret: string): RequestPlan {
  return bookingsOf(
    events.map(({ id }) => id),
    { secret, users: USERS, order },
  );
}
