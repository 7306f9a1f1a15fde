/** What a queue carries: a booking command as JSON, with the version of this form. */
import { type BookCommand, isBookCommand, isCommand } from "../domain/commands.ts";
import { type BookingId, slotOfBooking } from "../domain/ids.ts";
import { slotOf } from "../domain/slots.ts";

const VERSION = 1;

export type RequestCommand = BookCommand & { readonly requestId: BookingId };

export function messageOf(command: RequestCommand): Buffer {
  return Buffer.from(JSON.stringify({ version: VERSION, command }));
}

/** Returns why the message cannot be read when it cannot: whatever is in a queue, a node must go on. */
export function commandFrom(content: Buffer): RequestCommand | { readonly unreadable: string } {
  let message: unknown;
  try {
    message = JSON.parse(content.toString());
  } catch {
    return { unreadable: "it is not JSON" };
  }
  const { version, command } = (message ?? {}) as { readonly version?: unknown; readonly command?: unknown };
  if (version !== VERSION)
    return { unreadable: `its version is ${String(version).slice(0, 20)}, not ${VERSION}` };
  if (!isCommand(command) || !isBookCommand(command) || !isRequest(command))
    return { unreadable: "it holds no booking request" };
  const { eventId, slot, requestId } = command;
  if (slotOf(eventId) !== slot || slotOfBooking(requestId) !== slot)
    return { unreadable: "its ids are of other slots" };
  return command;
}

function isRequest(command: BookCommand): command is RequestCommand {
  return command.requestId !== undefined;
}
