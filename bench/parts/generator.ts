/**
 * Is the load generator good enough to be believed? Alone on a core, against the cheapest server there can be on the
 * other one. By its own processor time, because that is what it takes away from what it measures.
 */
import type { LoadPlan, LoadReport } from "../load/plan.ts";
import { latencyPlot } from "../load/plots.ts";
import { startCannedServer, startGenerator } from "../load/run.ts";
import { atLeast, type BareContext, type Figure, median, type Outcome } from "../part.ts";
import { CONNECTIONS, otherAnswers } from "./rush.ts";

const ROUNDS = 5;
const WARM_UP_SECONDS = 0.5;
const SERVER_CORE = 0;
const GENERATOR_CORE = 1;
const USERS = 20_000;
const TARGET_PER_SECOND = 50_000;
const EVENT = "/v1/events/01a21378-533b-7dba-adfd-acc56b90bcb5";
/** As long as the router's. */
const BODY = `{"id":"01a21378-55ea-72e9-9d7a-c62f7a6dd5ec","eventId":"01a21378-533b-7dba-adfd-acc56b90bcb5","userId":"buyer-0","quantity":1,"status":"confirmed","expiresAt":null,"createdAt":"2026-01-01T00:00:00.000Z","updatedAt":"2026-01-01T00:00:00.000Z"}`;
const ANSWER = `HTTP/1.1 201 Created\r\nx-request-id: 828f3e16-5b48-2\r\nlocation: /v1/bookings/01a21378-55ea-72e9-9d7a-c62f7a6dd5ec\r\ncontent-type: application/json; charset=utf-8\r\ncontent-length: ${BODY.length}\r\nDate: Thu, 01 Jan 2026 00:00:00 GMT\r\nConnection: keep-alive\r\nKeep-Alive: timeout=65\r\n\r\n${BODY}`;
/** Of a token that nobody looks at. */
const SECRET = "-".repeat(32);

export async function generator({ seconds, signal, progress }: BareContext): Promise<Outcome> {
  await using server = await startCannedServer(ANSWER, { signal, core: SERVER_CORE });
  await using load = startGenerator({ signal, progress, core: GENERATOR_CORE });
  const { host, port } = server;
  const buyers = { secret: SECRET, users: USERS, first: 0 };
  const kinds = {
    "POST, a token each": {
      method: "POST",
      paths: [`${EVENT}/bookings`],
      body: '{"quantity":1}',
      buyers,
      first: 0,
    },
    "GET, a token each": { method: "GET", paths: [EVENT], buyers, first: 0 },
  } as const satisfies Record<string, LoadPlan["requests"]>;
  const reports = Object.keys(kinds).map((): LoadReport[] => []);
  for (let round = 0; round < ROUNDS; round += 1) {
    for (const [index, [name, requests]] of Object.entries(kinds).entries()) {
      const times = { warmUpSeconds: WARM_UP_SECONDS, seconds: seconds / ROUNDS };
      const plan = { target: { host, port }, connections: CONNECTIONS, ...times, requests };
      reports[index]?.push(await load.run(plan, `generator: ${name}`));
    }
  }
  const named = Object.keys(kinds).map((name, index) => ({ name, reports: reports[index] ?? [] }));
  return {
    figures: named.map(({ name, reports }) => figureOf(name, reports)),
    plots: [
      latencyPlot(
        "What the generator sees of a server that does nothing",
        named.flatMap(({ name, reports }) => reports.slice(-1).map((report) => ({ name, report }))),
        "the last round",
      ),
    ],
  };
}

function figureOf(name: string, reports: readonly LoadReport[]): Figure {
  const perSecond = (report: LoadReport) => report.answers / report.seconds;
  const rounds = reports.map((report) => perSecond(report) / report.processorShare);
  const value = median(rounds);
  const thousands = rounds.map((round) => `${Math.round(round / 1000)}k`).join(" ");
  const others = reports.map((report) => otherAnswers(report, "201")).filter((other) => other !== "none");
  return {
    name: `${name}, per processor second`,
    value,
    unit: "/s",
    target: atLeast(TARGET_PER_SECOND, value, "/s"),
    note: `median of ${thousands}; ${Math.round(median(reports.map(perSecond))).toLocaleString("en")}/s by the clock; other answers: ${others.join(", ") || "none"}`,
  };
}
