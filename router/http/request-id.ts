/** Every request has an id, from the client or made here. `X-Request-Id` and every problem repeat it. */
import { randomUUID } from "node:crypto";
import type { IncomingMessage } from "node:http";

const ACCEPTED = /^[A-Za-z0-9._-]{1,64}$/;
const prefix = randomUUID().slice(0, 13);
let count = 0;

/** The client's id when it has an accepted form, else a new one. */
export function requestIdOf({ headers }: IncomingMessage): string {
  const id = headers["x-request-id"];
  return typeof id === "string" && ACCEPTED.test(id) ? id : newRequestId();
}

/** Unique over all routers, and cheap enough for every request. */
export function newRequestId(): string {
  count += 1;
  return `${prefix}-${count.toString(36)}`;
}
