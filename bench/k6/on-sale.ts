/**
 * A sale opens. Everybody wants the one event, more and more of them in every second, and there are tickets for one in
 * five. They are gone long before the crowd is; the rest hear that they came too late.
 */
import { check } from "k6";
import { scenario } from "k6/execution";
import { Api } from "./script/api.ts";
import { optionsOf, ramp } from "./script/load.ts";
import { createEvents, eventIdAt, eventNow, type Prepared } from "./script/prepare.ts";
import { readSettings } from "./script/settings.ts";

const BUYERS_PER_TICKET = 5;

const settings = readSettings("on-sale", __ENV);
const load = ramp(settings);
const api = new Api(settings);

export const options = optionsOf(settings, load, [
  { name: "book", status: 201 },
  { name: "book", status: 409 },
]);

export function setup(): Prepared {
  const totalTickets = settings.tickets ?? Math.ceil(load.arrivals / BUYERS_PER_TICKET / settings.events);
  return createEvents(settings, { totalTickets });
}

export default function (sale: Prepared): void {
  const number = scenario.iterationInTest;
  const eventId = eventIdAt(sale, number);
  api.book({ buyer: `buyer-${number}`, eventId, quantity: 1 }, `order-${number}`);
}

export function teardown(sale: Prepared): void {
  for (let index = 0; index < settings.events; index += 1) {
    const { availableTickets } = eventNow(settings, eventIdAt(sale, index));
    check(availableTickets, { "in the end the event is sold out": (left) => left === 0 });
  }
}
