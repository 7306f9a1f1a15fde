/** Every pattern of the services, and how its time grows with what it is given. */
import { globSync, readFileSync } from "node:fs";
import { type NewExpression, parseSync, Visitor } from "oxc-parser";
import { analyse } from "scslre";
import { expect, test } from "vitest";
import { isKnown, versionsIn } from "../../router/http/preconditions.ts";
import * as schemas from "../../router/http/schemas.ts";
import { queryFrom } from "../../router/http/input.ts";
import { parseBookingId, parseEventId, parseIdempotencyKey, parseUserId } from "../../shared/domain/ids.ts";
import { startLoneRouter } from "../support/lone-router.ts";

const root = `${import.meta.dirname}/../..`;

/** The patterns in the source, and what makes patterns of text at run time. */
function patternsOfSources() {
  const patterns: RegExp[] = [];
  const made: string[] = [];
  for (const file of globSync("{router,shard-node,shared}/**/*.ts", { cwd: root })) {
    const text = readFileSync(`${root}/${file}`, "utf8");
    const making = ({ callee, arguments: given }: Pick<NewExpression, "callee" | "arguments">): void => {
      if (callee.type !== "Identifier" || callee.name !== "RegExp") return;
      made.push(`${file}: ${given.map(({ start, end }) => text.slice(start, end)).join()}`);
    };
    new Visitor({
      Literal(literal) {
        if ("regex" in literal) patterns.push(new RegExp(literal.regex.pattern, literal.regex.flags));
      },
      NewExpression: making,
      CallExpression: making,
    }).visit(parseSync(file, text).program);
  }
  return { patterns, made };
}

/** The patterns in a schema, however deep. */
function patternsIn(value: unknown, seen = new Set<unknown>()): RegExp[] {
  if (value === null || typeof value !== "object" || seen.has(value)) return [];
  seen.add(value);
  if (value instanceof RegExp) return [value];
  const parts: unknown[] = value instanceof Set || value instanceof Map ? [...value.values()] : [];
  for (const [name, { value: part }] of Object.entries(Object.getOwnPropertyDescriptors(value)))
    // zod makes the members of an object when they are first asked for.
    parts.push(name === "shape" ? Reflect.get(value, name) : part);
  return parts.flatMap((part) => patternsIn(part, seen));
}

/** The patterns that the OpenAPI document asks clients and tools to use. */
function patternsOfDocument(value: unknown): string[] {
  if (typeof value !== "object" || value === null) return [];
  return Object.entries(value).flatMap(([name, part]) =>
    name === "pattern" && typeof part === "string" ? [part] : patternsOfDocument(part),
  );
}

/** A run of so many milliseconds never has a busy machine to itself. Then the time of this thread counts, which is too coarse for less. */
const SHARED_MS = 20;

/** Least time of several runs, in milliseconds: whoever else uses the machine can only add to it. */
function leastTimeOf(run: () => unknown, rounds = 7): number {
  let least = Infinity;
  for (let round = 0; round < rounds; round += 1) {
    const usedBefore = process.threadCpuUsage();
    const before = performance.now();
    run();
    const took = performance.now() - before;
    const { user, system } = process.threadCpuUsage(usedBefore);
    least = Math.min(least, took > SHARED_MS ? (user + system) / 1000 : took);
  }
  return least;
}

/** How much longer `long` takes than `short`. Measures anew while it seems to be too much, because a busy machine adds to either. */
function growthBetween(short: () => unknown, long: () => unknown, enough = LINEAR): number {
  let [least, most] = [Infinity, Infinity];
  // What takes so long was hardly disturbed.
  for (
    let attempt = 0;
    attempt < 10 && !(most < least * enough || (most > 20 && most < Infinity));
    attempt += 1
  ) {
    least = Math.min(least, leastTimeOf(short));
    most = Math.min(most, leastTimeOf(long));
  }
  return most / least;
}

const GROWTH = 8;
/** By how much more time `run` takes for a text that is eight times as long: by 8 when it is linear, by 64 when it is quadratic. */
function growthOf(run: (length: number) => () => unknown): number {
  let length = 64;
  // Until the clock can tell, or it is longer than any request.
  while (length < 2 ** 16 && leastTimeOf(run(length), 2) < 0.3) length *= 2;
  return growthBetween(run(length), run(length * GROWTH));
}
const LINEAR = 25;

/** Texts that keep a pattern busy: what may come first, then one thing again and again, and an end that fits nothing. */
function busyTexts({ source }: RegExp): ((length: number) => string)[] {
  const characters = [...new Set(`${source}a0 \t"-.,;:/%\u00e9\u{1f600}`)].filter(
    (each) => !"\\^$|?*+()[]{}".includes(each),
  );
  const units = [...characters, ...characters.slice(0, 8).map((each) => `${each}a`), '\\"', '"a"'];
  const starts = ["", source.replace(/^\^/, "").match(/^[\w ]+/)?.[0] ?? "x", '"', "x"];
  return starts.flatMap((start) =>
    units.flatMap((unit) =>
      ["\n", "\u0000!"].map(
        (end) => (length: number) => start + unit.repeat(Math.ceil(length / unit.length)) + end,
      ),
    ),
  );
}

/** The text of these that takes longest, at a length at which nothing takes long. */
function growthOfPattern(pattern: RegExp): number {
  const run = (make: (length: number) => string) => (length: number) => {
    const text = make(length);
    return () => {
      // A pattern may be global, and then goes on where it was.
      pattern.lastIndex = 0;
      return pattern.global ? text.replace(pattern, "") : pattern.test(text);
    };
  };
  let worst = (length: number) => "x".repeat(length);
  let most = 0;
  for (const make of busyTexts(pattern)) {
    const time = leastTimeOf(run(make)(1_000), 2);
    if (time > most) [most, worst] = [time, make];
  }
  return growthOf(run(worst));
}

test("I4: no pattern of the sources, the schemas or the document can take more than linear time", async () => {
  await using router = await startLoneRouter();
  const { body: document } = await router.client.send("GET", "/openapi.json");
  const { patterns, made } = patternsOfSources();
  const documented = [...new Set(patternsOfDocument(document))].map((pattern) => new RegExp(pattern, "u"));
  const ofSchemas = patternsIn(Object.values(schemas));
  expect(patterns.length).toBeGreaterThan(20);
  expect(documented.length).toBeGreaterThan(4);
  expect(ofSchemas.length).toBeGreaterThan(2);
  // The only pattern that is made is in the document.
  expect(made).toEqual(['router/http/schemas.ts: VISIBLE,"u"']);

  const all = new Map(
    [...patterns, ...documented, ...ofSchemas].map((pattern) => [String(pattern), pattern]),
  );
  for (const [text, { source, flags }] of all)
    expect([text, analyse({ source, flags }).reports.map(({ type }) => type)]).toEqual([text, []]);
  for (const [text, pattern] of all)
    expect([text, growthOfPattern(pattern)]).toEqual([
      text,
      expect.toSatisfy((growth: number) => growth < LINEAR),
    ]);
}, 120_000);

test("I4: the analysis and the clock both find patterns that are not linear", () => {
  // The first is what names were once checked with: two parts can take the same letters.
  for (const pattern of [/^[^\n]*[^\n ][^\n]*$/u, /\s+$/, /^[a-z0-9]*[a-z.]*$/]) {
    const { source, flags } = pattern;
    expect([source, analyse({ source, flags }).reports.length]).toEqual([source, 1]);
    expect([source, growthOfPattern(pattern) > LINEAR]).toEqual([source, true]);
  }
});

const texts: readonly ((length: number) => string)[] = [
  (length) => `${"a".repeat(length)}\n`,
  (length) => `2030-01-01T00:00:00.${"0".repeat(length)}Z`,
  (length) => `0190a3c1-${"0".repeat(length)}`,
  (length) => "7".repeat(length),
  (length) => `${"a".repeat(length / 2)}${"A".repeat(length / 2)}`,
  // Their canonical order is made by inserting one after the other.
  (length) => `a${"\u0315".repeat(length / 2)}${"\u0300".repeat(length / 2)}`,
];

test("I4: the length of a text that has a bound is looked at before anything else", () => {
  const checks: Record<string, (text: string) => unknown> = {
    parseBookingId,
    parseEventId,
    parseIdempotencyKey,
    parseUserId,
  };
  for (const [name, schema] of Object.entries({
    eventBody: schemas.eventBody,
    eventChanges: schemas.eventChanges,
    bookingBody: schemas.bookingBody,
    holdBody: schemas.holdBody,
    listQuery: schemas.listQuery,
  }))
    for (const field of Object.keys(schema.shape))
      checks[`${name}.${field}`] = (text) => schema.safeParse({ [field]: text });
  for (const [name, check] of Object.entries(checks))
    for (const [index, make] of texts.entries()) {
      const fifty = (length: number) => {
        const text = make(length);
        return () => {
          for (let again = 0; again < 50; again += 1) check(text);
        };
      };
      // Were all of it looked at, the time would be 64 times as long.
      const growth = growthBetween(fifty(4_096), fifty(4_096 * 64), 16);
      expect([name, index, growth]).toEqual([name, index, expect.toSatisfy((ratio: number) => ratio < 16)]);
    }
});

test("I4: what reads lists of a header or a query takes time in proportion to their length", () => {
  const readers: Record<string, (text: string) => unknown> = {
    query: (text) => {
      try {
        return queryFrom({ url: `/v1/events?${text}` } as Parameters<typeof queryFrom>[0], schemas.listQuery);
      } catch {
        return undefined;
      }
    },
    "if-match": (text) => {
      try {
        return versionsIn(text);
      } catch {
        return undefined;
      }
    },
    "if-none-match": (text) => isKnown(text, '"7"'),
  };
  const units = ["limit=1&", "a=&", "&", "%41", '"1",', '"', ",", " ", 'W/"', "a"];
  for (const [name, read] of Object.entries(readers))
    for (const unit of units) {
      const growth = growthOf((length) => {
        const text = unit.repeat(Math.ceil(length / unit.length));
        return () => read(text);
      });
      expect([name, unit, growth]).toEqual([name, unit, expect.toSatisfy((found: number) => found < LINEAR)]);
    }
});
