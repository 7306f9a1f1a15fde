/** What routers may ask of the read side (shared/wire/read-side.ts). */
import type { Server } from "node:http";
import {
  CSV_TYPE,
  csvRequestSchema,
  eventBookingsRequestSchema,
  READ_SIDE,
  statisticsRequestSchema,
  userBookingsRequestSchema,
} from "../shared/wire/read-side.ts";
import { ok, type Reply, RpcServer, type RpcServerParts } from "../shared/wire/rpc-server.ts";
import type { Answers } from "./answers.ts";

/** The header of an export that says as of when its first rows are. */
const AS_OF_HEADER = "onsale-as-of";

/** A server that answers routers; it does not listen yet. */
export function createReadSideServer(answers: Answers, parts: Omit<RpcServerParts, "failed">): Server {
  const rpc = new RpcServer({ ...parts, failed: () => undefined });
  rpc.call(READ_SIDE.userBookings, userBookingsRequestSchema, async (request) =>
    replyOf(await answers.userBookings(request)),
  );
  rpc.call(READ_SIDE.eventBookings, eventBookingsRequestSchema, async (request) =>
    replyOf(await answers.eventBookings(request)),
  );
  rpc.call(READ_SIDE.statistics, statisticsRequestSchema, async (request) =>
    replyOf(await answers.statistics(request)),
  );
  rpc.call(READ_SIDE.bookingsCsv, csvRequestSchema, async (request) => {
    const answer = await answers.csv(request);
    if (answer.outcome !== "csv") return replyOf(answer);
    const { asOf, content } = answer;
    return { headers: { "content-type": CSV_TYPE, [AS_OF_HEADER]: asOf }, content };
  });
  return rpc.server();
}

function replyOf(answer: { readonly outcome: string }): Reply {
  return answer.outcome === "read_side_unavailable" ? { status: 503, body: answer } : ok(answer);
}
