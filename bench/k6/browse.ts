/**
 * People look around and nobody buys. Most look at one event, some of them twice, as a browser does that has it already
 * (If-None-Match); the others turn the pages of the list.
 */
import { check } from "k6";
import { scenario } from "k6/execution";
import { Api } from "./script/api.ts";
import { kindOf, randomOf, zipf } from "./script/choices.ts";
import { optionsOf, steady } from "./script/load.ts";
import { createEvents, eventIdAt, type Prepared } from "./script/prepare.ts";
import { readSettings } from "./script/settings.ts";

const SHARES = { look: 70, "look twice": 20, "turn pages": 10 };
const PAGES_MAX = 3;
const PAGE_EVENTS = 20;
const TICKETS = 100;

const settings = readSettings("browse", __ENV);
const load = steady(settings);
const api = new Api(settings);

export const options = optionsOf(settings, load, [{ name: "read" }, { name: "list" }]);

export function setup(): Prepared {
  const totalTickets = settings.tickets ?? TICKETS;
  return createEvents(settings, { totalTickets });
}

export default function (sale: Prepared): void {
  const random = randomOf(scenario.iterationInTest);
  const kind = kindOf(SHARES, random);
  if (kind === "turn pages") {
    turnPages();
    return;
  }
  const id = eventIdAt(sale, zipf(settings.events, random));
  const etag = api.readEvent(id);
  if (kind === "look twice" && etag !== undefined) api.readEvent(id, etag);
}

/** From the newest on, as far as somebody would. */
function turnPages(): void {
  let cursor: string | undefined;
  let last: string | undefined;
  for (let number = 0; number < PAGES_MAX; number += 1) {
    const page = api.listEvents(PAGE_EVENTS, cursor);
    const [before, first] = [last, page?.items[0]?.id];
    if (before !== undefined && first !== undefined)
      check(first, { "a page goes on where the one before ended": (id) => id < before });
    if (typeof page?.nextCursor !== "string") return;
    cursor = page.nextCursor;
    last = page.items.at(-1)?.id;
  }
}
