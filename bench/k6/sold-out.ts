/**
 * Everyone comes too late: the event is sold out before the first of them arrives. They send no Idempotency-Key, as people
 * who have nothing to lose, so a router may refuse them out of its memory.
 */
import { check } from "k6";
import { scenario } from "k6/execution";
import { Api } from "./script/api.ts";
import { optionsOf, steady } from "./script/load.ts";
import { createEvents, eventIdAt, type Prepared, QUANTITY_MAX, sellOut } from "./script/prepare.ts";
import { readSettings } from "./script/settings.ts";

const TICKETS = 100;

const settings = readSettings("sold-out", __ENV);
const load = steady(settings);
const api = new Api(settings);

export const options = optionsOf(settings, load, [{ name: "book", status: 409 }]);

export function setup(): Prepared {
  const totalTickets = settings.tickets ?? TICKETS;
  const sale = createEvents(settings, { totalTickets, maxPerUser: QUANTITY_MAX });
  for (let index = 0; index < settings.events; index += 1)
    sellOut(settings, eventIdAt(sale, index), totalTickets);
  return sale;
}

export default function (sale: Prepared): void {
  const number = scenario.iterationInTest;
  const booking = api.book({ buyer: `buyer-${number}`, eventId: eventIdAt(sale, number), quantity: 1 });
  check(booking, { "nobody gets a ticket": (got) => got === undefined });
}
