/** What a router takes for a body, and how much of it its refusals repeat. */
import { isDeepStrictEqual } from "node:util";
import fc from "fast-check";
import { afterAll, beforeAll, expect, test } from "vitest";
import { Problem, PROBLEMS, type ProblemCode } from "../../router/http/problems.ts";
import { jsonFrom } from "../../router/http/json.ts";
import { type LoneRouter, startLoneRouter } from "../support/lone-router.ts";
import { tokenOf } from "../support/running-cluster.ts";
import { SNAPSHOT_ID } from "../support/snapshots.ts";

let router: LoneRouter;
beforeAll(async () => (router = await startLoneRouter()));
afterAll(async () => router[Symbol.asyncDispose]());

const seed = Number(process.env["TEST_SEED"] ?? Date.now() % 2 ** 31);
const EVENT = JSON.stringify({ name: "Käse \u{1f600}", startsAt: "2030-01-01T00:00:00Z", totalTickets: 1 });

/** Creates an event by a body of these pieces, each a chunk of its own. */
async function create(
  pieces: readonly (string | Uint8Array)[],
  headers: Readonly<Record<string, string>> = { "content-type": "application/json" },
) {
  const head = Object.entries({
    host: "x",
    authorization: `Bearer ${await tokenOf("org", "organizer")}`,
    connection: "close",
    "transfer-encoding": "chunked",
    ...headers,
  }).map(([name, value]) => `${name}: ${value}\r\n`);
  const chunks = pieces.map((piece) => {
    const bytes = Buffer.from(piece);
    return Buffer.concat([Buffer.from(`${bytes.length.toString(16)}\r\n`), bytes, Buffer.from("\r\n")]);
  });
  const answer = await router.raw(
    Buffer.concat([
      Buffer.from(`POST /v1/events HTTP/1.1\r\n${head.join("")}\r\n`),
      ...chunks,
      Buffer.from("0\r\n\r\n"),
    ]),
  );
  const [headersOf = "", said = ""] = answer.split(/\r\n\r\n(?:[0-9a-f]+\r\n)?/);
  return { status: Number(answer.slice(9, 12)), headers: headersOf.toLowerCase(), said };
}
const expectProblem = ({ status, said }: { status: number; said: string }, code: ProblemCode) => {
  expect([said, status]).toEqual([said, PROBLEMS[code].status]);
  expect(said).toContain(`"code":"${code}"`);
};

test("I1: a body is JSON in UTF-8 and not compressed, or 415 says what is taken", async () => {
  const json = "application/json";
  for (const type of [
    json,
    "Application/JSON",
    `${json};`,
    `${json}; charset=utf-8`,
    `${json};charset=UTF-8`,
    `${json} ; Charset="utf-8"`,
    `${json}; charset=utf8; profile=x`,
    `${json}; profile="charset"`,
  ])
    expect([type, (await create([EVENT], { "content-type": type })).status]).toEqual([type, 201]);
  for (const encoding of ["identity", "Identity", ""])
    expect((await create([EVENT], { "content-type": json, "content-encoding": encoding })).status).toBe(201);

  for (const headers of [
    {},
    { "content-type": "text/json" },
    { "content-type": `${json}+x` },
    { "content-type": `${json}; charset=utf-16` },
    { "content-type": `${json}; charset="ISO-8859-1"` },
    { "content-type": `${json}; charset=utf-8; charset=latin1` },
    { "content-type": `${json}; charset=` },
    { "content-type": json, "content-encoding": "gzip" },
    { "content-type": json, "content-encoding": "br, identity" },
    { "content-type": json, "content-encoding": "utf-8" },
  ]) {
    const answer = await create([EVENT], headers);
    expectProblem(answer, "unsupported_media_type");
    // RFC 9110 §15.5.16.
    expect(answer.headers).toContain("\r\naccept: application/json\r\n");
    expect(answer.headers).toContain("\r\naccept-encoding: identity\r\n");
  }
  // Nobody takes bytes of an unknown coding for text that is broken.
  const zipped = await create([Buffer.from([0x1f, 0x8b, 8, 0])], {
    "content-type": json,
    "content-encoding": "gzip",
  });
  expectProblem(zipped, "unsupported_media_type");
  // What is empty has no coding.
  expect((await create([], { "content-encoding": "gzip" })).status).toBe(400);
});

test("I1: bytes that are not UTF-8 are refused, in whatever pieces they come; a character may come in two", async () => {
  const bytes = Buffer.from(EVENT);
  const before = router.node.calls.length;
  for (let at = 1; at < bytes.length; at += 1)
    expect((await create([bytes.subarray(0, at), bytes.subarray(at)])).status).toBe(201);
  expect(router.node.calls.slice(before).every(({ body }) => body.includes("Käse \u{1f600}"))).toBe(true);

  const calls = router.node.calls.length;
  for (const wrong of [[0xe4], [0xc3], [0xc0, 0xaf], [0xed, 0xa0, 0x80], [0xf4, 0x90, 0x80, 0x80], [0xff]]) {
    const [start, end] = [Buffer.from('{"name":"K'), Buffer.from(`${EVENT.slice(EVENT.indexOf('"', 10))}`)];
    for (const pieces of [
      [Buffer.concat([start, Buffer.from(wrong), end])],
      [start, Buffer.from(wrong), end],
    ]) {
      const answer = await create(pieces);
      expectProblem(answer, "invalid_request");
      expect(answer.said).toContain("UTF-8");
    }
  }
  // RFC 8259 §8.1 leaves it to the receiver; here it is refused by name.
  const marked = await create([Buffer.from([0xef, 0xbb, 0xbf]), EVENT]);
  expectProblem(marked, "invalid_request");
  expect(marked.said).toContain("byte order mark");
  expect(router.node.calls).toHaveLength(calls);
});

test("I2: JSON that gives a member twice is refused, however deep and however it is spelled", async () => {
  for (const [text, twice] of [
    ['{"quantity":1,"quantity":1}', true],
    ['{"quantity":1,"\\u0071uantity":2}', true],
    ['{"a":{"b":[1,{"c":1,"c":1}]}}', true],
    ['{"__proto__":1,"__proto__":2}', true],
    ['[{"a":1},{"a":1}]', false],
    ['{"a":":","b":"\\":\\\\","c\\\\":{"a":"{}"}}', false],
    ['{"":1,"a":{"":2}}', false],
    ['" : "', false],
    [`${"[".repeat(7_000)}${"]".repeat(7_000)}`, false],
    [`${'{"a":'.repeat(2_000)}{"b":1,"b":1}${"}".repeat(2_000)}`, true],
  ] as const) {
    let refusal = "";
    try {
      jsonFrom(text);
    } catch (error) {
      refusal = String(error);
    }
    expect([text.slice(0, 60), refusal.includes("twice")]).toEqual([text.slice(0, 60), twice]);
  }
  const { client, node } = router;
  const calls = node.calls.length;
  const answer = await client.send("POST", `/v1/events/${SNAPSHOT_ID}/bookings`, {
    as: "ann",
    body: '{"quantity":1,"quantity":2}',
  });
  expect(answer).toMatchObject({ status: 400, body: { code: "invalid_request" } });
  expect(node.calls).toHaveLength(calls);
});

test("I2: of 1,000 texts exactly those with a member twice are refused", () => {
  /** A value as text, in which some objects have one of their members once more, and whether any has. */
  const text: fc.Arbitrary<readonly [string, boolean]> = fc.letrec<{ value: readonly [string, boolean] }>(
    (tie) => ({
      value: fc.oneof(
        { maxDepth: 3, depthSize: "small" },
        fc.json({ maxDepth: 0 }).map((json) => [json, false] as const),
        fc
          .array(tie("value"), { maxLength: 4 })
          .map(
            (items) =>
              [`[${items.map(([item]) => item).join(" ,")}]`, items.some(([, twice]) => twice)] as const,
          ),
        fc
          .tuple(
            fc.uniqueArray(fc.tuple(fc.string({ unit: "binary", maxLength: 3 }), tie("value")), {
              selector: ([name]) => name,
              maxLength: 4,
            }),
            fc.nat(9),
          )
          .map(([members, again]) => {
            const more = members[again] === undefined ? [] : [members[again]];
            const written = [
              ...members.map(([name, [value]]) => `${JSON.stringify(name)}: ${value}`),
              ...more.map(([name, [value]]) => `${escaped(name)} :${value}`),
            ];
            return [
              `{${written.join(",")}}`,
              more.length > 0 || members.some(([, [, twice]]) => twice),
            ] as const;
          }),
      ),
    }),
  ).value;
  const found = { once: 0, twice: 0 };
  fc.assert(
    fc.property(text, ([json, twice]) => {
      let refused = false;
      try {
        if (!isDeepStrictEqual(jsonFrom(json), JSON.parse(json))) return false;
      } catch (error) {
        if (!(error instanceof Problem) || error.code !== "invalid_request") throw error;
        refused = true;
      }
      found[twice ? "twice" : "once"] += 1;
      return refused === twice;
    }),
    { seed, numRuns: 1_000 },
  );
  expect(found.once).toBeGreaterThan(100);
  expect(found.twice).toBeGreaterThan(100);
});

/** A string of JSON in which every character is an escape. */
function escaped(text: string): string {
  const units = Array.from({ length: text.length }, (_, at) => text.charCodeAt(at));
  return `"${units.map((unit) => `\\u${unit.toString(16).padStart(4, "0")}`).join("")}"`;
}
