/**
 * The read side's database as its processes see it: each write is one step, which moves a shard's position or does nothing, as
 * read-side/views/writing.ts does it. How it comes that every booking counts once is left to those who write.
 */
import { VIEWS_VERSION, type Positions, type ShardPosition } from "../../read-side/views/tables.ts";
import { RANKED_STATUSES, type Rows, type Writer } from "../../read-side/views/writing.ts";
import { DatabaseError } from "../../shared/database/faults.ts";
import type { BookingId, EventId, ShardId } from "../../shared/domain/ids.ts";
import type { CopiedBooking } from "../../shared/wire/rpc.ts";
import type { SimulatedShard } from "./store.ts";
import { type Process, self, world } from "./world.ts";

/** How long a process waits for the end of a statement. */
const TIMEOUT_MS = 2_000;

export class SimulatedViews implements Pick<Writer, "schema" | "build" | "begin" | "write"> {
  readonly schema = "views";
  readonly build = "the only one";
  readonly process: Process;
  /** The probability that a connection breaks: before a statement arrives, after it, or long before it runs. */
  breaks = 0;
  readonly #positions = new Map<ShardId, ShardPosition>();
  readonly #bookings = new Map<BookingId, CopiedBooking>();
  /** Tickets by event and status. */
  readonly #tickets = new Map<string, number>();
  /** A shard whose position was moved back: who has seen a booking would miss it then. */
  #wentBack: ShardId | undefined;

  constructor(process: Process) {
    this.process = process;
  }

  /** As much of a Database as findTables() asks of it. */
  async query<Row extends object>(): Promise<Row[]> {
    return this.#statement(() => {
      const positions: Positions = Object.fromEntries(this.#positions);
      return [{ version: VIEWS_VERSION, build: this.build, positions } as unknown as Row];
    });
  }

  async begin(shard: ShardId, position: number, copied: string): Promise<void> {
    await this.#statement(() => {
      if (!this.#positions.has(shard)) this.#positions.set(shard, { position, copied, asOf: null });
    });
  }

  async write(shard: ShardId, from: ShardPosition, to: ShardPosition, rows: Rows): Promise<boolean> {
    return this.#statement(() => {
      if (!this.#moved(shard, from, to)) return false;
      this.#store(rows);
      return true;
    });
  }

  /** Whether a shard is copied, and its log is in up to its end. */
  hasAll({ id, log }: SimulatedShard): boolean {
    const { copied, position = -1 } = this.#positions.get(id) ?? {};
    return copied === null && position >= (log.at(-1)?.position ?? 0);
  }

  /** In what it differs from the shards, or undefined. */
  difference(shards: readonly SimulatedShard[]): string | undefined {
    if (this.#wentBack !== undefined) return `the position of ${this.#wentBack} went back`;
    const tickets = new Map<string, number>();
    for (const { id, state } of shards) {
      for (const booking of state.bookings.values()) {
        const { status, quantity, eventId } = booking;
        count(tickets, eventId, status, quantity);
        const seen = this.#bookings.get(booking.id);
        if (seen?.status !== status || seen.quantity !== quantity || seen.userId !== booking.userId)
          return `${booking.id} of ${id} is ${status}, and the read side has it as ${seen?.status}`;
      }
    }
    for (const [name, counted] of this.#tickets)
      if (counted !== (tickets.get(name) ?? 0))
        return `the read side counts ${counted} tickets as ${name}, and there are ${tickets.get(name) ?? 0}`;
    return undefined;
  }

  #moved(shard: ShardId, from: ShardPosition, to: ShardPosition): boolean {
    const { position, copied } = this.#positions.get(shard) ?? {};
    if (position !== from.position || copied !== from.copied) return false;
    if (to.position < position) this.#wentBack = shard;
    this.#positions.set(shard, to);
    return true;
  }

  #store({ bookings }: Rows): void {
    for (const booking of bookings.values()) {
      const known = this.#bookings.get(booking.id);
      if (known !== undefined && rankOf(known) >= rankOf(booking)) continue;
      if (known !== undefined) count(this.#tickets, known.eventId, known.status, -known.quantity);
      count(this.#tickets, booking.eventId, booking.status, booking.quantity);
      this.#bookings.set(booking.id, booking);
    }
  }

  async #statement<T>(work: () => T): Promise<T> {
    const { promise, resolve, reject } = Promise.withResolvers<T>();
    const [db, caller] = [world(), self()];
    const back = (settle: () => void): void => void db.after(db.between(0.1, 0.8), settle, caller);
    const lose = (): void => reject(new DatabaseError("lost", "the connection broke"));
    const silence = db.after(TIMEOUT_MS, lose, caller);
    const breaks = db.chance(this.breaks);
    const how = db.pick(["before", "after", "meanwhile"] as const);
    const run = (): void => {
      const result = work();
      back(breaks ? lose : () => resolve(result));
    };
    if (breaks) db.note(`a connection of ${caller.name} to the views breaks: ${how}`);
    if (breaks && how !== "after") back(lose);
    const late = breaks && how === "meanwhile" ? db.between(1, 2_000) : 0;
    if (!breaks || how !== "before") db.after(late + db.between(0.6, 6), run, this.process);
    return promise.finally(() => (silence.cancelled = true));
  }
}

const rankOf = ({ status }: CopiedBooking): number => RANKED_STATUSES.indexOf(status);

function count(tickets: Map<string, number>, event: EventId, status: string, quantity: number): void {
  const name = `${event} ${status}`;
  tickets.set(name, (tickets.get(name) ?? 0) + quantity);
}
