/**
 * What the witness saw, as JSON lines: every request before it is sent, every answer after it has arrived. A line that was
 * written survives the witness. Times are milliseconds of one clock that never jumps.
 */
import { closeSync, openSync, readFileSync, writeSync } from "node:fs";
import { z } from "zod";

const event = z.object({
  type: z.literal("event"),
  id: z.string(),
  /** Names a part of the cluster whose figures are kept apart, such as a shard. */
  label: z.string(),
  totalTickets: z.number(),
  maxPerUser: z.number(),
});

const sent = z.object({
  type: z.literal("sent"),
  /** Pairs it with its answer. */
  id: z.number(),
  at: z.number(),
  /** Which of the given URLs it goes to, from 0. */
  router: z.number(),
  operation: z.enum(["book", "hold", "confirm", "cancel", "read", "show", "follow"]),
  event: z.string(),
  /** Whose request it is; reads of an event are nobody's. */
  user: z.string().optional(),
  quantity: z.number().optional(),
  /** The idempotency key of a booking or hold, if it has one. */
  key: z.string().optional(),
  /** The booking that is confirmed, cancelled or shown. */
  booking: z.string().optional(),
  /** A booking or hold whose client prefers not to wait for the decision. */
  async: z.literal(true).optional(),
  /** What is followed. */
  receipt: z.string().optional(),
});

const booking = z.object({
  id: z.string(),
  eventId: z.string(),
  userId: z.string(),
  quantity: z.number(),
  status: z.string(),
});

/** What is kept of an answer that is a booking, a booking request or an event. */
export const answerContent = {
  booking,
  request: z.object({
    receipt: z.string(),
    bookingId: z.string(),
    eventId: z.string(),
    quantity: z.number(),
    status: z.enum(["queued", "decided", "lapsed"]),
    booking: booking.optional(),
    problem: z.object({ code: z.string() }).optional(),
  }),
  event: z.object({ id: z.string(), version: z.number(), availableTickets: z.number() }),
};

const answer = z.object({
  type: z.literal("answer"),
  id: z.number(),
  at: z.number(),
  /** null: there was no answer. */
  status: z.number().nullable(),
  /** Of a problem document; without an answer, the reason. */
  code: z.string().optional(),
  booking: answerContent.booking.optional(),
  request: answerContent.request.optional(),
  event: answerContent.event.optional(),
});

const entry = z.discriminatedUnion("type", [event, sent, answer]);
export type Entry = Readonly<z.infer<typeof entry>>;
export type WatchedEvent = Readonly<z.infer<typeof event>>;
export type Sent = Readonly<z.infer<typeof sent>>;
export type Answer = Readonly<z.infer<typeof answer>>;

export class WitnessLog {
  readonly file: string;
  readonly #entriesMax: number;
  readonly #descriptor: number;
  #entries = 0;

  /** Appends to `file`. Nothing more is asked once it holds `entriesMax` lines; their answers are still written. */
  constructor(file: string, entriesMax: number) {
    this.file = file;
    this.#entriesMax = entriesMax;
    this.#descriptor = openSync(file, "a", 0o600);
  }

  get isFull(): boolean {
    return this.#entries >= this.#entriesMax;
  }

  /** Returns when the system has the line. */
  write(line: Entry): void {
    writeSync(this.#descriptor, `${JSON.stringify(line)}\n`);
    this.#entries += 1;
  }

  close(): void {
    closeSync(this.#descriptor);
  }
}

/** All of it, in the order in which it happened. A last line that was cut off is left out. Throws on any other bad line. */
export function readLog(file: string): Entry[] {
  const lines = readFileSync(file, "utf8").split("\n").slice(0, -1);
  return lines.map((line) => entry.parse(JSON.parse(line)));
}
