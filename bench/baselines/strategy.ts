/**
 * What a baseline is made of: a strategy, which decides bookings, and what it needs around it. All strategies run under
 * the same HTTP server (app.ts), on the same two tables (database.ts), by the same rules (`refusalOf`).
 */
import type { ContenderStats } from "./contender.ts";

export const BASELINE_NAMES = [
  "for-update",
  "optimistic",
  "atomic-update",
  "redis-lock",
  "redis-counter",
  "queue",
] as const;
export type BaselineName = (typeof BASELINE_NAMES)[number];

/** Outside programs, of which a baseline starts its own instance. */
export type OutsideProgram = "redis-server" | "rabbitmq-server";

export interface StrategyModule {
  /** One line that says what it is. */
  readonly title: string;
  readonly needs: readonly OutsideProgram[];
  /** SQL that the strategy needs beside the common tables; may be empty. */
  readonly schema: string;
  /** The second process of the strategy, if it has one: its name, and its script in strategies/. */
  readonly worker?: { readonly name: string; readonly script: string };
  /** Runs in the process that answers HTTP. */
  start(settings: StrategySettings): Promise<Strategy>;
}

export interface StrategySettings {
  readonly databaseUrl: string;
  /** Instead of the strategy's own choice. */
  readonly connectionsMax: number | undefined;
  /** Empty unless the strategy needs the program. */
  readonly redisUrl: string;
  readonly amqpUrl: string;
}

export interface Strategy extends AsyncDisposable {
  readonly stats: ContenderStats;
  /** Decides, and resolves with "booked" only when the booking is as durable as the strategy ever makes it. */
  book(request: BookingRequest): Promise<Decision>;
  /** Called with new events after their rows were inserted. */
  created?(eventIds: readonly string[]): Promise<void>;
  /** Resolves when every confirmed booking is in PostgreSQL. */
  settle?(): Promise<void>;
}

/** A request for a booking, with the id and the time of the booking. */
export interface BookingRequest {
  readonly id: string;
  readonly eventId: string;
  readonly userId: string;
  readonly quantity: number;
  /** RFC 3339, UTC. */
  readonly createdAt: string;
}

export type Refusal =
  | { readonly outcome: "sold_out" | "event_not_found" }
  | { readonly outcome: "insufficient_tickets"; readonly availableTickets: number }
  | { readonly outcome: "user_limit_exceeded"; readonly maxPerUser: number; readonly held: number };

/** `overloaded` had no effect; `outcome_unknown` may have had one. */
export type Decision = Refusal | { readonly outcome: "booked" | "overloaded" | "outcome_unknown" };

/** The facts of a decision. */
export interface Stock {
  readonly availableTickets: number;
  readonly maxPerUser: number;
  /** Tickets of the event that the user has already. */
  readonly held: number;
}

/** Why the rules refuse a booking, in the order in which onsale judges; undefined when they do not. */
export function refusalOf(stock: Stock | undefined, quantity: number): Refusal | undefined {
  if (stock === undefined) return { outcome: "event_not_found" };
  const { availableTickets, maxPerUser, held } = stock;
  if (availableTickets === 0) return { outcome: "sold_out" };
  if (held + quantity > maxPerUser) return { outcome: "user_limit_exceeded", maxPerUser, held };
  if (availableTickets < quantity) return { outcome: "insufficient_tickets", availableTickets };
  return undefined;
}
