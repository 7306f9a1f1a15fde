/** Every request has an id, given by the client or made here, that comes back in `X-Request-Id` and in every problem. */
import { randomUUID } from "node:crypto";
import type { IncomingMessage } from "node:http";

const ACCEPTED = /^[A-Za-z0-9._-]{1,64}$/;
const prefix = randomUUID().slice(0, 13);
let count = 0;

/** The client's own id when it is usable, else a new one: unique over all routers, cheap enough for every request. */
export function requestIdOf(request: IncomingMessage): string {
  const given = request.headers["x-request-id"];
  if (typeof given === "string" && ACCEPTED.test(given)) return given;
  return newRequestId();
}

export function newRequestId(): string {
  count += 1;
  return `${prefix}-${count.toString(36)}`;
}
