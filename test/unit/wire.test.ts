import fc from "fast-check";
import { expect, test } from "vitest";
import { isCommand } from "../../shared/domain/commands.ts";
import { newBookingId, parseEventId, parseUserId, type UserId } from "../../shared/domain/ids.ts";
import { SLOT_COUNT, slotOf } from "../../shared/domain/slots.ts";
import { commandsRequestSchema } from "../../shared/wire/rpc.ts";
import { bookCommand, settleCommand } from "../support/commands.ts";

const eventId = fc.uuid().map((text) => parseEventId(text) ?? (text as never));
const userId = fc
  .oneof(
    fc.stringMatching(/^[a-z0-9 -]{1,255}$/),
    fc.string({ unit: "grapheme", minLength: 1, maxLength: 20 }),
  )
  .map((text) => parseUserId(text) ?? "ann");
const key = fc.stringMatching(/^[!-~][ -~]{0,127}$/);
const book = fc
  .tuple(eventId, userId, fc.integer({ min: 1, max: 100 }), key)
  .map(([id, user, quantity, chosen]) => bookCommand(id, user, quantity, chosen));
const commands = fc.oneof(
  book,
  fc
    .tuple(book, fc.integer({ min: 1, max: 3600 }))
    .map(([command, ttlSeconds]) => ({ ...command, kind: "hold", ttlSeconds })),
  fc
    .tuple(eventId, fc.constantFrom("confirm" as const, "cancel" as const), fc.option(userId))
    .map(([id, kind, user]) => settleCommand(kind, newBookingId(slotOf(id), 0), user as UserId | null)),
);

/** For each member, values that no router sends. Bounds of numbers are the business of the shard's constraints. */
const ID = [
  "",
  "x",
  "01A20409-0C00-7C2B-AF63-0ABCA586C6CB",
  "01a20409-0c00-7c2b-af63-0abca586c6cb\n",
  "},{",
  1,
];
const NUMBER = [Number.NaN, Number.POSITIVE_INFINITY, 1.5, 2 ** 53, "1", [], {}];
const WRONG: Readonly<Record<string, readonly unknown[]>> = {
  kind: ["", "toString", "__proto__", "Book", 1],
  eventId: ID,
  bookingId: ID,
  slot: [-1, SLOT_COUNT, ...NUMBER],
  userId: ["", "a\0", "\ud800", "\u0085", " a", "e\u0301", "x".repeat(256), 1, {}],
  quantity: NUMBER,
  key: ["", " k", "a\0", "ä", "k".repeat(129), null, 1],
  ttlSeconds: NUMBER,
  deadline: NUMBER,
};

test("S2: a node takes every command that a router makes", () => {
  fc.assert(fc.property(commands, (command) => isCommand(command)));
});

test("S2: a node takes no command with a member that is missing or no router's", () => {
  fc.assert(
    fc.property(commands, fc.nat(), (command, choice) => {
      const members = Object.keys(command);
      const member = members[choice % members.length] ?? "kind";
      for (const value of [undefined, ...(WRONG[member] ?? [])])
        expect([member, value, isCommand({ ...command, [member]: value })]).toEqual([member, value, false]);
    }),
  );
  for (const value of [null, undefined, 1, "book", [], {}]) expect(isCommand(value)).toBe(false);
});

test("S2: a call is as good as each of its commands", () => {
  fc.assert(
    fc.property(fc.array(fc.oneof(commands, fc.anything()), { maxLength: 4 }), (batch) => {
      const good = batch.length > 0 && batch.every(isCommand);
      expect(commandsRequestSchema.safeParse({ sentAt: 0, commands: batch }).success).toBe(good);
    }),
  );
});
