/** The two requests of nearly all loads, and their addresses. */
import type { Target } from "./connection.ts";
import type { RequestOrder, RequestPlan } from "./plan.ts";

/** One ticket each of these events, by users `buyer-0` and on. */
export function bookingsOf(
  eventIds: readonly string[],
  { secret, users, ...further }: { secret: string; users: number; order?: RequestOrder; first?: number },
): RequestPlan {
  return {
    method: "POST",
    paths: eventIds.map((id) => `/v1/events/${id}/bookings`),
    buyers: { secret, users, first: 0 },
    body: '{"quantity":1}',
    first: 0,
    ...further,
  };
}

/** Reads of these events, without a token. */
export function readsOf(eventIds: readonly string[], order: RequestOrder = "in turns"): RequestPlan {
  return { method: "GET", paths: eventIds.map((id) => `/v1/events/${id}`), order, first: 0 };
}

export function targetOf(url: string): Target {
  const { hostname, port } = new URL(url);
  return { host: hostname, port: Number(port) };
}
