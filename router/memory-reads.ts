/**
 * `GET /v1/events/{id}` answered straight out of memory, before the web framework: the path of nearly every request of a
 * rush. It knows only the commonest case, a canonical id that memory may answer for; everything else takes the route in
 * routes/events.ts, which gives the same answers (a test holds the two equal; what it saves: npm run bench -- reads).
 */
import type { IncomingMessage, ServerResponse } from "node:http";
import type { EventId } from "../shared/ids.ts";
import type { CachedEvent, EventCache } from "./event-cache.ts";
import { nameSpan } from "./request-trace.ts";
import { requestIdOf } from "./request-id.ts";

export const EVENT_CACHE_CONTROL = "public, max-age=1, stale-while-revalidate=5";
export const EVENT_ROUTE = "/v1/events/{id}";
const PATH = "/v1/events/";
const PATH_LENGTH = PATH.length + 36;

/** `answered` counts an answer by status and seconds. */
export function memoryReads(
  cache: EventCache,
  hit: () => void,
  answered: (status: 200 | 304, seconds: number) => void,
) {
  return (request: IncomingMessage, response: ServerResponse): boolean => {
    const { method, url } = request;
    if (method !== "GET" || url?.length !== PATH_LENGTH || !url.startsWith(PATH)) return false;
    if (request.headers.host === undefined) return false;
    const started = performance.now();
    const event = cache.fresh(url.slice(PATH.length) as EventId);
    if (event === undefined) return false;
    hit();
    const headers = eventHeaders(event, "hit; detail=memory");
    const requestId = requestIdOf(request);
    headers["x-request-id"] = requestId;
    nameSpan(request, EVENT_ROUTE, requestId);
    if (matches(request.headers["if-none-match"], event.etag)) {
      response.writeHead(304, headers).end();
      answered(304, (performance.now() - started) / 1000);
    } else {
      headers["content-type"] = "application/json; charset=utf-8";
      headers["content-length"] = event.body.bytes;
      response.writeHead(200, headers).end(event.body.text, event.body.encoding);
      answered(200, (performance.now() - started) / 1000);
    }
    return true;
  };
}

/** The caching headers of an event (RFC 9110 §8.8.3, RFC 9111 §5.2, RFC 9211 §2). */
export function eventHeaders(event: CachedEvent, cacheStatus: string): Record<string, string | number> {
  return { etag: event.etag, "cache-control": EVENT_CACHE_CONTROL, "cache-status": `onsale; ${cacheStatus}` };
}

/** If-None-Match, by weak comparison (RFC 9110 §13.1.2). */
export function matches(ifNoneMatch: string | undefined, etag: string): boolean {
  if (ifNoneMatch === undefined) return false;
  if (ifNoneMatch === etag || ifNoneMatch.trim() === "*") return true;
  const opaque = etag.slice(2);
  return ifNoneMatch.split(",").some((candidate) => candidate.trim().replace(/^W\//, "") === opaque);
}
