/** What a cluster has of the events that the witness watched: from its databases, or from its API alone. */
import { shardsIn, withDatabase } from "../../../audit/audit.ts";
import type { Statement } from "../../../shared/database/database.ts";
import { attemptsIn, type Facts, type Row } from "./check.ts";
import type { Client } from "./client.ts";
import type { Entry, WatchedEvent } from "./log.ts";

// One statement sees one moment: a hold may end at any time.
const FACTS: Statement = {
  name: "witness-facts",
  text: `
    select
      (select coalesce(json_agg(json_build_object(
                'id', id, 'version', version, 'availableTickets', available_tickets)), '[]')
       from events where id = any($1::uuid[])) as events,
      (select coalesce(json_agg(json_build_object(
                'id', id, 'eventId', event_id, 'userId', user_id, 'quantity', quantity, 'status', status,
                'key', idempotency_key)), '[]')
       from bookings where event_id = any($1::uuid[])) as rows`,
};

export interface Part {
  readonly events: readonly {
    readonly id: string;
    readonly version: number;
    readonly availableTickets: number;
  }[];
  readonly rows: readonly Row[];
}

/** All rows of the events. Throws DatabaseError when a shard does not answer. */
export async function factsFromDatabases(catalogUrl: string, entries: readonly Entry[]): Promise<Facts> {
  const shards = await shardsIn(catalogUrl);
  return factsFrom(entries, async (statement, ids) => {
    const parts = shards.map(async ({ databaseUrl, timeline }) =>
      withDatabase(databaseUrl, async (database) => database.query<Part>(statement, [ids]), timeline),
    );
    return (await Promise.all(parts)).flat();
  });
}

/** All rows of the events. `ask` gives each shard's row of the answer; the statement's one parameter is the ids. */
export async function factsFrom(
  entries: readonly Entry[],
  ask: (statement: Statement, ids: readonly string[]) => Promise<readonly Part[]>,
): Promise<Facts> {
  const parts = await ask(
    FACTS,
    watchedIn(entries).map(({ id }) => id),
  );
  return {
    complete: true,
    rows: parts.flatMap(({ rows }) => rows),
    events: new Map(parts.flatMap(({ events }) => events).map((event) => [event.id, event])),
  };
}

/** The events, and those bookings whose ids the witness was told. Throws when the cluster does not answer for one. */
export async function factsFromApi(client: Client, entries: readonly Entry[]): Promise<Facts> {
  const owners = new Map<string, { event: string; user: string }>();
  for (const { sent, answer } of attemptsIn(entries)) {
    const booking = answer?.booking ?? answer?.request?.booking;
    if (booking !== undefined && sent.user !== undefined)
      owners.set(booking.id, { event: sent.event, user: sent.user });
  }
  const rows: Row[] = [];
  for (const [booking, { event, user }] of owners) {
    const answer = await client.ask({ operation: "show", event, user, booking }, 0);
    if (answer.booking !== undefined) rows.push({ ...answer.booking, key: null });
    else if (answer.status !== 404)
      throw new Error(`booking ${booking}: ${answer.status} ${answer.code ?? ""}`);
  }
  const events = new Map<string, { version: number; availableTickets: number }>();
  for (const { id } of watchedIn(entries)) {
    const answer = await client.ask({ operation: "read", event: id }, 0);
    if (answer.event !== undefined) events.set(id, answer.event);
    else if (answer.status !== 404) throw new Error(`event ${id}: ${answer.status} ${answer.code ?? ""}`);
  }
  return { complete: false, rows, events };
}

function watchedIn(entries: readonly Entry[]): WatchedEvent[] {
  return entries.filter((entry) => entry.type === "event");
}
