/**
 * Lets the pages of other origins use the API (Fetch standard, "CORS protocol"). The headers are set on Node's own response
 * before the app sees the request, so every answer has them, a refusal too. Who may call is decided by tokens alone: no answer
 * allows credentials, so a browser sends nothing that a page does not have itself.
 */
import type { IncomingMessage, RequestListener } from "node:http";
import { KEY_HEADER, REPLAYED_HEADER } from "./idempotency.ts";
import { POSITION_HEADER } from "./position.ts";
import { requestIdOf } from "./request-id.ts";

/** What a page may read beside the few headers that every page may. */
const EXPOSED = [
  "allow",
  "cache-status",
  "etag",
  "location",
  "ratelimit",
  "ratelimit-policy",
  "retry-after",
  "www-authenticate",
  "x-request-id",
  KEY_HEADER,
  POSITION_HEADER,
  REPLAYED_HEADER,
].join(", ");

/** How long a browser remembers a preflight; none remembers it longer. */
const PREFLIGHT_MAX_AGE_SECONDS = 7_200;
const PREFLIGHT = {
  "access-control-allow-methods": "GET, HEAD, POST, PATCH, DELETE",
  "access-control-allow-headers": [
    "authorization",
    "content-type",
    "if-match",
    "if-none-match",
    "traceparent",
    "tracestate",
    "x-request-id",
    KEY_HEADER,
    POSITION_HEADER,
  ].join(", "),
  "access-control-max-age": String(PREFLIGHT_MAX_AGE_SECONDS),
};

/**
 * Puts the headers on the answers to `origins`. Answers their preflights without asking the app, which would check a token,
 * and calls `preflighted` for each. Returns `handle` itself when there are no origins.
 */
export function withCors(
  origins: ReadonlySet<string>,
  preflighted: () => void,
  handle: RequestListener,
): RequestListener {
  if (origins.size === 0) return handle;
  return (incoming, outgoing) => {
    const { origin } = incoming.headers;
    // Also for other origins and none: a cache must not give one the answer to another.
    outgoing.setHeader("vary", "origin");
    if (origin !== undefined && origins.has(origin)) {
      outgoing.setHeader("access-control-allow-origin", origin);
      if (isPreflight(incoming)) {
        preflighted();
        outgoing.writeHead(204, { ...PREFLIGHT, "x-request-id": requestIdOf(incoming) }).end();
        return;
      }
      outgoing.setHeader("access-control-expose-headers", EXPOSED);
    }
    handle(incoming, outgoing);
  };
}

function isPreflight({ method, headers }: IncomingMessage): boolean {
  return method === "OPTIONS" && headers["access-control-request-method"] !== undefined;
}
