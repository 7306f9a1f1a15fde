/**
 * What a queue carries: booking requests as JSON, with the version of this form. A message holds all requests of one queue that
 * a router has at one moment, in their order: to carry, confirm and acknowledge a message costs more than to decide a request.
 */
import { isCommand, isRequest, type RequestCommand } from "../domain/commands.ts";
import { slotOfBooking } from "../domain/ids.ts";
import { slotOf } from "../domain/slots.ts";

const VERSION = 1;
/** Requests in one message. */
export const REQUESTS_MAX = 64;

/** Why a message cannot be read. */
export interface Unreadable {
  readonly unreadable: string;
}

export function messageOf(requests: readonly RequestCommand[]): Buffer {
  return Buffer.from(JSON.stringify({ version: VERSION, requests }));
}

/** Never throws: whatever is in a queue, a node must go on. */
export function requestsFrom(content: Buffer): readonly RequestCommand[] | Unreadable {
  let message: unknown;
  try {
    message = JSON.parse(content.toString());
  } catch {
    return { unreadable: "it is not JSON" };
  }
  const { version, requests } = (message ?? {}) as {
    readonly version?: unknown;
    readonly requests?: unknown;
  };
  if (version !== VERSION)
    return { unreadable: `its version is ${String(version).slice(0, 20)}, not ${VERSION}` };
  if (!Array.isArray(requests) || requests.length === 0 || !requests.every(holdsRequest))
    return { unreadable: "it holds no booking requests" };
  if (requests.length > REQUESTS_MAX) return { unreadable: `it holds more than ${REQUESTS_MAX} requests` };
  if (!requests.every(isOfOneSlot)) return { unreadable: "its ids are of other slots" };
  return requests;
}

function holdsRequest(value: unknown): value is RequestCommand {
  return isCommand(value) && isRequest(value);
}

function isOfOneSlot({ eventId, slot, requestId }: RequestCommand): boolean {
  return slotOf(eventId) === slot && slotOfBooking(requestId) === slot;
}
