/**
 * An ordinary evening: 95 people look at an event for every 5 who book, over ten thousand events that are as popular as
 * Zipf's law says. The most popular of them sell out on the way.
 */
import { scenario } from "k6/execution";
import { Api } from "./script/api.ts";
import { kindOf, randomOf, zipf } from "./script/choices.ts";
import { optionsOf, steady } from "./script/load.ts";
import { createEvents, eventIdAt, type Prepared } from "./script/prepare.ts";
import { readSettings } from "./script/settings.ts";

const SHARES = { read: 95, book: 5 };
const TICKETS = 100;
const QUANTITY_MAX = 2;

const settings = readSettings("mixed", __ENV);
const load = steady(settings);
const api = new Api(settings);

export const options = optionsOf(settings, load, [{ name: "read" }, { name: "book" }]);

export function setup(): Prepared {
  const totalTickets = settings.tickets ?? TICKETS;
  return createEvents(settings, { totalTickets });
}

export default function (sale: Prepared): void {
  const number = scenario.iterationInTest;
  const random = randomOf(number);
  const eventId = eventIdAt(sale, zipf(settings.events, random));
  if (kindOf(SHARES, random) === "read") api.readEvent(eventId);
  else {
    const quantity = 1 + Math.floor(random() * QUANTITY_MAX);
    api.book({ buyer: `buyer-${number}`, eventId, quantity }, `order-${number}`);
  }
}
