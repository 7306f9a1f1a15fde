/**
 * The read side as the router asks it: lists of bookings over all shards, and statistics. While it is away, no client waits:
 * a question that a client asks then only finds out, behind its refusal, whether the read side is back.
 */
import type { Readable } from "node:stream";
import type { z } from "zod";
import type { Log } from "../../shared/process/log.ts";
import { Outage } from "../../shared/process/outage.ts";
import type { Span } from "../../shared/watch/tracing.ts";
import { CallError, NodeClient } from "../../shared/wire/node-client.ts";
import {
  bookingsAnswerSchema,
  type BookingsPage,
  CSV_TYPE,
  type CsvRequest,
  type EventBookingsRequest,
  FRESHNESS_WAIT_MAX_MS,
  READ_SIDE,
  type ReadSideUnavailable,
  type StatisticsAnswer,
  statisticsAnswerSchema,
  type StatisticsRequest,
  type UserBookingsRequest,
} from "../../shared/wire/read-side.ts";

/** More than may be asked at once (router/http/views.ts). */
const CONNECTIONS = 300;

const UNAVAILABLE: ReadSideUnavailable = { outcome: "read_side_unavailable" };

export class ReadSide {
  readonly #client: NodeClient;
  readonly #deadlineMs: number;
  readonly #outage: Outage;
  #isProbing = false;

  /** An answer takes `deadlineMs` at most, and what it waits for a change. */
  constructor(url: string, internalToken: string, deadlineMs: number, log: Log) {
    this.#client = new NodeClient(url, internalToken, CONNECTIONS, log);
    this.#deadlineMs = deadlineMs;
    this.#outage = new Outage(log, "the read side");
  }

  /** Whether it answered when it was asked last. */
  get up(): boolean {
    return !this.#client.open;
  }

  async userBookings(
    request: Omit<UserBookingsRequest, "waitMs">,
    span?: Span,
  ): Promise<BookingsPage | ReadSideUnavailable> {
    const waitMs = request.position === null ? 0 : FRESHNESS_WAIT_MAX_MS;
    return this.#ask(READ_SIDE.userBookings, { ...request, waitMs }, bookingsAnswerSchema, span);
  }

  async eventBookings(
    request: EventBookingsRequest,
    span?: Span,
  ): Promise<BookingsPage | ReadSideUnavailable> {
    return this.#ask(READ_SIDE.eventBookings, request, bookingsAnswerSchema, span);
  }

  async statistics(request: StatisticsRequest, span?: Span): Promise<StatisticsAnswer> {
    return this.#ask(READ_SIDE.statistics, request, statisticsAnswerSchema, span);
  }

  /** All bookings of an event as CSV; undefined while it cannot be had. `signal` ends it. */
  async bookingsCsv(request: CsvRequest, signal: AbortSignal): Promise<Readable | undefined> {
    const call = { path: READ_SIDE.bookingsCsv, body: request, timeoutMs: this.#deadlineMs };
    try {
      return await this.#client.stream(call, CSV_TYPE, signal);
    } catch (error) {
      if (!(error instanceof CallError)) throw error;
      if (!signal.aborted) this.#outage.failed(error);
      return undefined;
    }
  }

  async close(): Promise<void> {
    await this.#client.close();
  }

  async #ask<Answer>(
    path: string,
    body: object,
    answer: z.ZodType<Answer>,
    span: Span | undefined,
  ): Promise<Answer | ReadSideUnavailable> {
    const call = { path, body, answer, timeoutMs: this.#deadlineMs + FRESHNESS_WAIT_MAX_MS, span };
    if (this.#client.open) {
      void this.#probe({ path, body, answer, timeoutMs: this.#deadlineMs });
      return UNAVAILABLE;
    }
    try {
      const answered = await this.#client.call(call);
      this.#outage.worked();
      return answered;
    } catch (error) {
      if (!(error instanceof CallError)) throw error;
      this.#outage.failed(error);
      return UNAVAILABLE;
    }
  }

  async #probe(call: Parameters<NodeClient["probe"]>[0]): Promise<void> {
    if (this.#isProbing) return;
    this.#isProbing = true;
    try {
      await this.#client.probe(call);
    } catch (error) {
      if (!(error instanceof CallError)) throw error;
    } finally {
      this.#isProbing = false;
    }
  }
}
