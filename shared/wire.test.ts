import fc from "fast-check";
import { expect, test } from "vitest";
import { areCanonicalCommands, commandSchema, commandsRequestSchema } from "./wire.ts";

const id = fc.uuid();
const text = (pattern: RegExp) => fc.stringMatching(pattern);
const userId = fc.oneof(
  text(/^[a-z0-9 -]{1,64}$/),
  fc.string({ unit: "grapheme", minLength: 1, maxLength: 20 }),
);
const key = text(/^[!-~][ -~]{0,127}$/);
const quantity = fc.integer({ min: 1, max: 100 });
const budgetMs = fc.double({ min: 0.001, max: 60_000, noNaN: true });
const ttlSeconds = fc.integer({ min: 1, max: 3600 });
const owner = fc.option(userId);
const commands = fc.oneof(
  fc.record({ kind: fc.constant("book"), eventId: id, userId, quantity, key, budgetMs }),
  fc.record({ kind: fc.constant("hold"), eventId: id, userId, quantity, key, ttlSeconds, budgetMs }),
  fc.record({ kind: fc.constantFrom("confirm", "cancel"), bookingId: id, userId: owner, budgetMs }),
);

const FIELDS = ["kind", "eventId", "bookingId", "userId", "quantity", "key", "ttlSeconds", "budgetMs"];
const hostile = fc.oneof(
  fc.anything(),
  fc.constantFrom<unknown>(
    0,
    -1,
    1,
    1.5,
    100,
    101,
    3600,
    3601,
    2 ** 53,
    Number.NaN,
    Infinity,
    -Infinity,
    "1",
    "",
  ),
  fc.constantFrom<unknown>(
    "book",
    "hold",
    "confirm",
    "cancel",
    "toString",
    "__proto__",
    null,
    undefined,
    [],
    {},
  ),
  fc.constantFrom<unknown>(
    "a\0",
    "\ud800",
    "\u0085",
    "x".repeat(64),
    "x".repeat(65),
    "k".repeat(128),
    "k".repeat(129),
  ),
  fc.uuid().map((value) => value.toUpperCase()),
  fc.uuid().map((value) => `${value}\n`),
);
/** A command in which a field is another, or gone, or one more. */
const mutated = fc
  .tuple(commands, fc.constantFrom(...FIELDS), fc.option(hostile, { nil: "gone" }))
  .map(([command, field, value]) => {
    const copy: Record<string, unknown> = { ...command };
    if (value === "gone") delete copy[field];
    else copy[field] = value;
    return copy;
  });
const anyCommand: fc.Arbitrary<unknown> = fc.oneof(commands, mutated, fc.anything());

test("S2: what the fast check of commands lets through is what their schema would return", () => {
  fc.assert(
    fc.property(anyCommand, (command) => {
      const { success, data } = commandSchema.safeParse(command);
      if (!areCanonicalCommands([command])) return;
      expect(success).toBe(true);
      expect(command).toMatchObject(data ?? {});
    }),
    { numRuns: 5_000 },
  );
});

test("S2: what the schema returns as it is, the fast check lets through", () => {
  fc.assert(
    fc.property(anyCommand, (command) => {
      const { data } = commandSchema.safeParse(command);
      expect(data === undefined || areCanonicalCommands([data])).toBe(true);
    }),
    { numRuns: 5_000 },
  );
});

test("S2: a batch is as good as each of its commands", () => {
  fc.assert(
    fc.property(fc.array(anyCommand, { maxLength: 4 }), (batch) => {
      const good = batch.length > 0 && batch.every((command) => commandSchema.safeParse(command).success);
      expect(commandsRequestSchema.safeParse({ commands: batch }).success).toBe(good);
    }),
    { numRuns: 2_000 },
  );
});
