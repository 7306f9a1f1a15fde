/** What `npm start` prints when the cluster is up: addresses, tokens, and commands to paste. */
import { request } from "undici";
import { z } from "zod";
import { mintToken } from "../../router/callers/tokens.ts";
import type { DataDir } from "./data-dir.ts";
import { http } from "./roles.ts";

const TOKEN_TTL_SECONDS = 24 * 60 * 60;
const DAY_MS = 24 * 60 * 60 * 1000;

export interface Access {
  readonly routerUrl: string;
  readonly secret: string;
}

const onSale = z.object({ salesEndAt: z.iso.datetime() });

/** The id of the demo event; makes another one when it does not exist or is over. */
export async function demoEvent({ routerUrl, secret }: Access, dataDir: DataDir): Promise<string> {
  const kept = dataDir.state.demoEventId;
  if (kept !== undefined) {
    const { statusCode, body } = await request(`${routerUrl}/v1/events/${kept}`, { dispatcher: http });
    const event = onSale.safeParse(await body.json().catch(() => undefined)).data;
    const isOver = event !== undefined && Date.parse(event.salesEndAt) <= Date.now();
    if (statusCode !== 404 && !isOver) return kept;
  }
  const token = await mintToken({ secret, sub: "demo-organizer", role: "organizer", ttlSeconds: 60 });
  const { statusCode, body } = await request(`${routerUrl}/v1/events`, {
    dispatcher: http,
    method: "POST",
    headers: { authorization: `Bearer ${token}`, "content-type": "application/json" },
    body: JSON.stringify({ ...demoBody("Opening night"), totalTickets: 10_000 }),
  });
  const answer: unknown = await body.json();
  if (statusCode !== 201) throw new Error(`the router answered ${statusCode}: ${JSON.stringify(answer)}`);
  const { id } = z.object({ id: z.string() }).parse(answer);
  dataDir.state.demoEventId = id;
  dataDir.saveState();
  return id;
}

/** The lines to print. `eventId` is undefined when the demo event could not be made. */
export async function guide(
  { routerUrl, secret }: Access,
  cluster: {
    adminUrl: string;
    dataDir: string;
    amqpUrl: string | undefined;
    readSideUrl: string | undefined;
    eventId: string | undefined;
  },
): Promise<string> {
  const buyer = await mintToken({ secret, sub: "demo-buyer", role: "buyer", ttlSeconds: TOKEN_TTL_SECONDS });
  const organizer = await mintToken({
    secret,
    sub: "demo-organizer",
    role: "organizer",
    ttlSeconds: TOKEN_TTL_SECONDS,
  });
  const queue =
    cluster.amqpUrl === undefined
      ? ""
      : `\n  queue     RabbitMQ at ${new URL(cluster.amqpUrl).host}  (book with -H 'Prefer: respond-async' to wait in it)`;
  const readSide =
    cluster.readSideUrl === undefined
      ? ""
      : `\n  read side ${cluster.readSideUrl}  (lists of bookings, statistics; npm run read-side -- rebuild fills it anew)`;
  const body = JSON.stringify({ ...demoBody("My concert"), totalTickets: 500 });
  return `
onsale is ready.

  API       ${routerUrl}        (try it in a browser: ${routerUrl}/docs)
  admin     ${cluster.adminUrl}/readyz, /metrics
  data      ${cluster.dataDir}  (kept between starts; processes and passwords: cluster.json)${queue}${readSide}

Tokens, valid for 24 hours (more: npm run token -- --sub USER):

  BUYER='${buyer}'
  ORGANIZER='${organizer}'

Paste the two lines above, then create an event:

  curl -i ${routerUrl}/v1/events -H "Authorization: Bearer $ORGANIZER" \\
    -H 'Content-Type: application/json' -d '${body}'

and book a ticket for the ${cluster.eventId === undefined ? "event (put its id in)" : "demo event"}:

  curl -i ${routerUrl}/v1/events/${cluster.eventId ?? "EVENT_ID"}/bookings -H "Authorization: Bearer $BUYER" \\
    -H 'Content-Type: application/json' -d '{"quantity":1}'

Ctrl-C stops everything.
`;
}

function demoBody(name: string) {
  return { name, venue: "Town Hall", startsAt: new Date(Date.now() + 60 * DAY_MS).toISOString() };
}
