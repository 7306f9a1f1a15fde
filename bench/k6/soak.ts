/**
 * Everything that buyers do, in moderation and for long: what leaks, grows or drifts shows in an hour and not in a minute.
 * They look and book, hold tickets while they pay, think better of it, or leave a hold behind, which then ends by itself.
 */
import { sleep } from "k6";
import { scenario } from "k6/execution";
import { Api } from "./script/api.ts";
import { kindOf, randomOf, zipf } from "./script/choices.ts";
import { optionsOf, steady } from "./script/load.ts";
import { createEvents, eventIdAt, type Prepared } from "./script/prepare.ts";
import { readSettings } from "./script/settings.ts";

const SHARES = { look: 70, book: 14, "hold and confirm": 8, "book and cancel": 5, "hold and leave": 3 };
const PAYING_SECONDS = 0.5;
const HOLD_SECONDS = 60;
const LEFT_HOLD_SECONDS = 2;
const TICKETS = 10_000;
const QUANTITY_MAX = 2;

const settings = readSettings("soak", __ENV);
const load = steady(settings);
const api = new Api(settings);

export const options = optionsOf(settings, load, [
  { name: "read" },
  { name: "book" },
  { name: "hold" },
  { name: "confirm" },
  { name: "cancel" },
]);

export function setup(): Prepared {
  const totalTickets = settings.tickets ?? TICKETS;
  return createEvents(settings, { totalTickets });
}

export default function (sale: Prepared): void {
  const number = scenario.iterationInTest;
  const random = randomOf(number);
  const eventId = eventIdAt(sale, zipf(settings.events, random));
  const order = { buyer: `buyer-${number}`, eventId, quantity: 1 + Math.floor(random() * QUANTITY_MAX) };
  const key = `order-${number}`;
  switch (kindOf(SHARES, random)) {
    case "look":
      api.readEvent(eventId);
      break;
    case "book":
      api.book(order, key);
      break;
    case "hold and confirm": {
      const held = api.hold(order, HOLD_SECONDS, key);
      if (held === undefined) break;
      sleep(PAYING_SECONDS);
      api.confirm(held);
      break;
    }
    case "book and cancel": {
      const booked = api.book(order, key);
      if (booked !== undefined) api.cancel(booked);
      break;
    }
    case "hold and leave":
      api.hold(order, LEFT_HOLD_SECONDS, key);
      break;
  }
}
