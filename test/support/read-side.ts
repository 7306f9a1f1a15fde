/** A read side of a test's cluster, with an empty database, and what one asks of it. */
import { readSideConfig } from "../../read-side/config.ts";
import { startReadSide } from "../../read-side/read-side.ts";
import type { IncomingMessage } from "node:http";
import type { z } from "zod";
import { POSITION_HEADER, positionOf } from "../../router/http/position.ts";
import type { ShardId } from "../../shared/domain/ids.ts";
import { readConfig } from "../../shared/process/config.ts";
import {
  bookingsAnswerSchema,
  type EventBookingsRequest,
  FRESHNESS_WAIT_MAX_MS,
  READ_SIDE,
  statisticsAnswerSchema,
  type UserBookingsRequest,
} from "../../shared/wire/read-side.ts";
import { createEmptyDatabase } from "./databases.ts";
import { eventually } from "./eventually.ts";
import { INTERNAL_TOKEN, RPC_HEADERS } from "./running-cluster.ts";

export type TestReadSide = Awaited<ReturnType<typeof startTestReadSide>>;

/** Starts it; `ready` resolves when it serves. Without a URL, its database is a new one. */
export async function startTestReadSide(
  nodes: readonly { readonly url: string }[],
  env: Readonly<Record<string, string>> = {},
) {
  const database = env["DATABASE_URL"] === undefined ? await createEmptyDatabase() : undefined;
  const databaseUrl = env["DATABASE_URL"] ?? database?.url ?? "";
  const settings = {
    DATABASE_URL: databaseUrl,
    NODE_URLS: nodes.map(({ url }) => url).join(","),
    INTERNAL_TOKEN,
    HOST: "127.0.0.1",
    PORT: "0",
    ADMIN_PORT: "0",
    LOG_LEVEL: process.env["TEST_LOG_LEVEL"] ?? "silent",
    // For tests of what is answered, not of when.
    STATEMENT_TIMEOUT_MS: "30000",
    WRITE_TIMEOUT_MS: "30000",
    CONNECT_TIMEOUT_MS: "30000",
    POOL_WAIT_MAX_MS: "30000",
    ...env,
  };
  const running = await startReadSide(readConfig(readSideConfig, settings));
  const send = async (path: string, body: unknown): Promise<Response> =>
    fetch(running.url + path, { method: "POST", headers: RPC_HEADERS, body: JSON.stringify(body) });
  const ask = async <Answer>(path: string, body: unknown, schema: z.ZodType<Answer>): Promise<Answer> =>
    schema.parse(await (await send(path, body)).json());
  return {
    ...running,
    databaseUrl,
    send,
    ready: async () =>
      eventually("the read side is ready", async () => (await fetch(`${running.adminUrl}/readyz`)).ok),
    metrics: async () => (await fetch(`${running.adminUrl}/metrics`)).text(),
    ofUser: async (userId: string, more: Partial<UserBookingsRequest> = {}) =>
      ask(
        READ_SIDE.userBookings,
        { ...PAGE, userId, position: null, waitMs: 0, ...more },
        bookingsAnswerSchema,
      ),
    /** The user's bookings, with the change that an answer to them told of. */
    knows: async (userId: string, headers: Headers) => {
      const position = positionIn(headers);
      for (;;) {
        const request = { ...PAGE, userId, position, waitMs: FRESHNESS_WAIT_MAX_MS };
        const answer = await ask(READ_SIDE.userBookings, request, bookingsAnswerSchema);
        if (answer.outcome !== "page") throw new Error(`the read side says ${answer.outcome}`);
        if (answer.hasPosition) return answer;
      }
    },
    ofEvent: async (eventId: string, more: Partial<EventBookingsRequest> = {}) =>
      ask(READ_SIDE.eventBookings, { ...PAGE, eventId, ...more }, bookingsAnswerSchema),
    statistics: async (eventId: string) => ask(READ_SIDE.statistics, { eventId }, statisticsAnswerSchema),
    csv: async (eventId: string, status: string | null = null) =>
      send(READ_SIDE.bookingsCsv, { eventId, status }),
    async [Symbol.asyncDispose]() {
      await running.close();
      await database?.[Symbol.asyncDispose]();
    },
  };
}

const PAGE = { before: null, limit: 101, status: null };

/** The position that an answer's header says. */
function positionIn(headers: Headers): { shard: ShardId; position: number } {
  const text = headers.get(POSITION_HEADER) ?? "";
  const at = positionOf({ headers: { [POSITION_HEADER]: text } } as unknown as IncomingMessage);
  if (at === undefined) throw new Error("the answer says no position");
  return { shard: at.shard, position: at.position };
}
