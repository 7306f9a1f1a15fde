/** The load generator, against a server that says and does exactly what a test wants. */
import { createServer, type Socket } from "node:net";
import { expect, test, vi } from "vitest";
import type { Connection } from "../../bench/load/connection.ts";
import { generateLoad } from "../../bench/load/generator.ts";
import { openModel } from "../../bench/load/models.ts";
import type { LoadPlan, LoadReport, RequestPlan } from "../../bench/load/plan.ts";
import { requestsOf } from "../../bench/load/requests.ts";
import { Tally } from "../../bench/load/tally.ts";
import { systemClock } from "../../shared/process/clock.ts";
import { TokenVerifier } from "../../router/callers/tokens.ts";
import { listen } from "../support/listen.ts";

const SECRET = "a-secret-of-the-load-tests-0000000000000";

interface Script extends AsyncDisposable {
  readonly port: number;
  /** Requests in order of arrival. */
  readonly requests: readonly string[];
  readonly connections: () => number;
}

/** Answers the n-th request (from 0) with what `script` says for it; it may take its time. */
async function startScript(script: (number: number, socket: Socket) => void): Promise<Script> {
  const requests: string[] = [];
  let connections = 0;
  const server = createServer({ noDelay: true }, (socket) => {
    connections += 1;
    socket.on("data", (data) => {
      requests.push(data.toString());
      script(requests.length - 1, socket);
    });
  });
  return { ...(await listen(server)), requests, connections: () => connections };
}

const answer = (status: string, body = "{}", headers = "") =>
  `HTTP/1.1 ${status}\r\n${headers}content-type: application/json\r\ncontent-length: ${body.length}\r\n\r\n${body}`;
const CONFIRMED = answer("201 Created");
const SOLD_OUT = answer("409 Conflict", '{"status":409,"code":"sold_out"}');
const BROKEN = answer("500 Internal Server Error", '{"code":"internal"}');

const book: RequestPlan = { method: "POST", paths: ["/book"], body: '{"quantity":1}', first: 0 };

async function load(port: number, plan: Partial<LoadPlan>): Promise<LoadReport> {
  return generateLoad(
    {
      target: { host: "127.0.0.1", port },
      connections: 4,
      warmUpSeconds: 0,
      seconds: 0,
      requests: book,
      ...plan,
    },
    () => undefined,
  );
}

const target = { host: "127.0.0.1", port: 80 };
const buyers = (count: number) => ({ secret: SECRET, users: count, first: 7 });
const users = (count: number) => Array.from({ length: count }, (_, number) => `buyer-${number + 7}`);
const subjectOf = (request: string) => {
  const [, payload = ""] = /Bearer [^.]+\.([^.]+)/.exec(request) ?? [];
  return (JSON.parse(Buffer.from(payload, "base64url").toString()) as { sub: string }).sub;
};
const pathOf = (request: string) => request.split(" ")[1] ?? "";
const countBy = (values: readonly string[]) =>
  values.reduce<Record<string, number>>((counts, value) => {
    counts[value] = (counts[value] ?? 0) + 1;
    return counts;
  }, {});

test("M3: every answer is counted by what it is, and an expected no is no error", async () => {
  const script = [CONFIRMED, SOLD_OUT, SOLD_OUT, BROKEN];
  await using server = await startScript((number, socket) => socket.write(script[number % 4] ?? ""));

  const report = await load(server.port, { requests: { ...book, buyers: buyers(40) } });

  expect(report.counts).toEqual({ "201": 10, "409 sold_out": 20, "500 internal": 10 });
  expect(report.classes).toEqual({ confirmed: 10, accepted: 0, refused: 20, read: 0, error: 10 });
  expect([report.answers, report.sent, report.dropped]).toEqual([40, 40, 0]);
  const inSlices = report.series.slices.reduce((sum, slice) => sum + slice.refused, 0);
  expect(inSlices).toBe(20);
});

test("M3: an answer may come in pieces, without a body, and with headers in either case", async () => {
  const pieces = [CONFIRMED.slice(0, 11), CONFIRMED.slice(11, 40), CONFIRMED.slice(40)];
  await using server = await startScript((number, socket) => {
    if (number % 3 === 1) socket.write("HTTP/1.1 304 Not Modified\r\netag: 1\r\n\r\n");
    else if (number % 3 === 2) socket.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    else for (const [index, piece] of pieces.entries()) setTimeout(() => socket.write(piece), index * 2);
  });

  const report = await load(server.port, { connections: 1, requests: { ...book, buyers: buyers(9) } });

  expect(report.counts).toEqual({ "201": 3, "304": 3, "200": 3 });
  expect(report.classes).toEqual({ confirmed: 3, accepted: 0, refused: 0, read: 6, error: 0 });
});

test("M3: a request whose connection breaks is counted as lost, and the load goes on over a new one", async () => {
  await using server = await startScript((number, socket) => {
    if (number % 5 === 0) socket.destroy();
    else if (number % 5 === 1) socket.write("HTTP/1.1 200 OK\r\n\r\nwhere does this end?");
    else socket.write(CONFIRMED);
  });

  const report = await load(server.port, { requests: { ...book, buyers: buyers(50) } });

  const { "201": confirmed, "lost: an answer that is not understood": strange, ...broken } = report.counts;
  expect([confirmed, strange, report.sent]).toEqual([30, 10, 50]);
  expect(Object.values(broken).reduce((sum, count) => sum + count, 0)).toBe(10);
  expect(Object.keys(broken).every((answered) => answered.startsWith("lost: "))).toBe(true);
  expect(report.classes.error).toBe(20);
  expect(server.connections()).toBeGreaterThan(20);
});

test("M3: who waits while the server stalls is counted with the whole wait (open model)", async () => {
  const [perSecond, stallMs, connections] = [1000, 200, 8];
  let stalledUntil: number | undefined;
  let held = 0;
  await using server = await startScript((number, socket) => {
    if (number === 300) stalledUntil = performance.now() + stallMs;
    const wait = (stalledUntil ?? 0) - performance.now();
    if (wait > stallMs / 10) held += 1;
    setTimeout(() => socket.write(CONFIRMED), Math.max(0, wait));
  });

  const report = await load(server.port, { connections, seconds: 1, arrivals: { perSecond } });

  // The server itself has seen a handful of slow requests; a crowd of 200 has waited for 100 ms on average.
  expect(held).toBeLessThanOrEqual(connections);
  expect([report.answers, report.dropped]).toEqual([perSecond, 0]);
  expect(report.latencyMs.max).toBeGreaterThan(stallMs * 0.9);
  expect(report.latencyMs.p90).toBeGreaterThan(stallMs * 0.4);
  const slow = report.latencyCurve.find(({ ms }) => ms > stallMs * 0.25)?.percentile ?? 100;
  expect(slow).toBeLessThan(88);
});

test("M3: arrivals that find no connection and no place to wait are dropped and counted (open model)", () => {
  vi.useFakeTimers();
  try {
    const start = performance.now();
    const dues: number[] = [];
    const connection = { send: (_: string, due: number) => dues.push(due - start) } as unknown as Connection;
    const tally = new Tally({ from: start, until: start + 300 }, "since");
    const requests = { next: () => "a request", total: Number.POSITIVE_INFINITY };
    const model = openModel(requests, { perSecond: 1000, waitingMax: 10 }, start, tally);
    for (let count = 0; count < 2; count += 1) model.free(connection);
    vi.advanceTimersByTime(300);
    model.stop();

    // 300 were due: two were sent, ten wait, and nobody answers.
    expect([model.sent, model.waiting, model.dropped]).toEqual([2, 10, 288]);
    while (model.waiting > 0) model.free(connection);
    model.free(connection);
    expect([model.sent, model.exhausted]).toEqual([12, true]);
    // The wait of each counts from the moment it was due.
    expect(dues.map(Math.round)).toEqual(Array.from({ length: 12 }, (_, due) => due));
  } finally {
    vi.useRealTimers();
  }
});

test("M3: what is asked before the counted time is answered and not counted", async () => {
  await using server = await startScript((_, socket) => socket.write(CONFIRMED));

  const report = await load(server.port, {
    warmUpSeconds: 0.299,
    seconds: 0.3,
    arrivals: { perSecond: 200 },
  });

  expect(report.answers).toBe(60);
  expect(report.sent).toBeGreaterThanOrEqual(120);
  expect(report.allClasses.confirmed).toBe(report.sent);
});

test("M3: every user has a token of their own that the product takes", async () => {
  await using server = await startScript((_, socket) => socket.write(CONFIRMED));

  await load(server.port, { requests: { ...book, buyers: buyers(20) } });

  const subjects = server.requests.map(subjectOf);
  expect(new Set(subjects)).toEqual(new Set(users(20)));
  const verifier = new TokenVerifier({ keys: { secret: SECRET } }, systemClock);
  const token = /Bearer (\S+)/.exec(server.requests[0] ?? "")?.[1] ?? "";
  expect(await verifier.verify(token)).toMatchObject({ userId: subjects[0], role: "buyer" });
});

test("M3: in turns, every user books each event once before anybody books it again", () => {
  const requests = requestsOf({ ...book, paths: ["/a", "/b"], buyers: buyers(3) }, target);
  const made = Array.from({ length: requests.total }, () => requests.next());
  expect(made.map(pathOf)).toEqual(["/a", "/a", "/a", "/b", "/b", "/b"]);
  expect(made.map(subjectOf)).toEqual([...users(3), ...users(3)]);
});

test("M3: evenly, all events come equally often and a user meets an event again only after all others", () => {
  for (const [paths, count] of [
    [4, 6],
    [6, 4],
    [3, 4],
  ] as const) {
    const plan = { ...book, paths: Array.from({ length: paths }, (_, n) => `/${n}`), buyers: buyers(count) };
    const requests = requestsOf({ ...plan, order: "evenly" }, target);
    const made = Array.from({ length: paths * count }, () => requests.next());
    expect(Object.values(countBy(made.map(pathOf)))).toEqual(Array(paths).fill(count));
    const pairs = new Set(made.map((request) => `${pathOf(request)} ${subjectOf(request)}`));
    expect([paths, count, pairs.size]).toEqual([paths, count, paths * count]);
  }
});

test("M3: by Zipf's law, the i-th event is asked for 1 / i as often as the first, and alike in every run", () => {
  const plan = { ...book, paths: Array.from({ length: 1000 }, (_, n) => `/${n}`), order: "zipf" } as const;
  const draw = () => {
    const requests = requestsOf(plan, target);
    return Array.from({ length: 50_000 }, () => pathOf(requests.next()));
  };
  const drawn = draw();
  const counts = countBy(drawn);
  const harmonic = Array.from({ length: 1000 }, (_, n) => 1 / (n + 1)).reduce((sum, next) => sum + next, 0);
  for (const rank of [1, 2, 5, 10]) {
    const expected = 50_000 / harmonic / rank;
    const ratio = (counts[`/${rank - 1}`] ?? 0) / expected;
    expect([rank, ratio > 0.85 && ratio < 1.15]).toEqual([rank, true]);
  }
  expect(draw()).toEqual(drawn);
});

test("M3: a mix has each kind of request by its share", () => {
  const read: RequestPlan = { method: "GET", paths: ["/event"], first: 0 };
  const mix = {
    kinds: [
      { share: 95, requests: read },
      { share: 5, requests: book },
    ],
  };
  const requests = requestsOf(mix, target);
  const counts = countBy(Array.from({ length: 20_000 }, () => pathOf(requests.next())));
  expect((counts["/book"] ?? 0) / 20_000).toBeCloseTo(0.05, 2);
  expect((counts["/event"] ?? 0) + (counts["/book"] ?? 0)).toBe(20_000);
});
