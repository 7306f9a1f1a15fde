/** What a scenario needs before its load, over the API; none of it is counted. */
import type { Event } from "../../../shared/domain/events.ts";
import { isBooking, isEvent } from "./contract.ts";
import { ask, askTimes, said } from "./requests.ts";
import type { Settings } from "./settings.ts";
import { bearer } from "./tokens.ts";

interface EventFields {
  readonly totalTickets: number;
  readonly maxPerUser?: number;
}

/** The ids of all events in one string: each VU unpacks a copy, and ten thousand strings take far longer than one. */
export type Prepared = string;

const ID_CHARACTERS = 36;
/** The most that one booking, and one user, may have. */
export const QUANTITY_MAX = 100;

/** The id of event 0, 1, …; from the first again after the last. */
export function eventIdAt(eventIds: Prepared, index: number): string {
  const start = (index * ID_CHARACTERS) % eventIds.length;
  return eventIds.slice(start, start + ID_CHARACTERS);
}

/** Makes events by the organizer's token. Throws, with the answer, when one is refused. */
export function createEvents({ routerUrl, secret, events }: Settings, fields: EventFields): Prepared {
  const answers = askTimes(events, {
    name: "prepare",
    method: "POST",
    url: `${routerUrl}/v1/events`,
    headers: { Authorization: bearer(secret, "k6", "organizer") },
    body: { name: "Load test", startsAt: "2099-01-01T20:00:00Z", ...fields },
    expected: [201],
  });
  const ids = answers.map((answer) => {
    const { status, headers, body } = answer;
    if (status === 201 && isEvent(body) && headers["Location"] === `/v1/events/${body.id}`) return body.id;
    const advice = status === 401 ? "; is AUTH_JWT_SECRET the one that the cluster was started with?" : "";
    throw new Error(`creating an event answered ${said(answer)}${advice}`);
  });
  return ids.join("");
}

/** Throws, with the answer, when it cannot be had. */
export function eventNow({ routerUrl }: Settings, id: string): Event {
  const url = `${routerUrl}/v1/events/${id}`;
  const answer = ask({ name: "prepare", method: "GET", url, expected: [200] });
  if (answer.status === 200 && isEvent(answer.body)) return answer.body;
  throw new Error(`reading the event answered ${said(answer)}`);
}

/** Books all tickets of an event whose `maxPerUser` lets one user have 100. Throws, with the answer, when that is refused. */
export function sellOut({ routerUrl, secret }: Settings, eventId: string, totalTickets: number): void {
  for (let left = totalTickets; left > 0; left -= QUANTITY_MAX) {
    const answer = ask({
      name: "prepare",
      method: "POST",
      url: `${routerUrl}/v1/events/${eventId}/bookings`,
      headers: { Authorization: bearer(secret, `early-${left}`, "buyer") },
      body: { quantity: Math.min(left, QUANTITY_MAX) },
      expected: [201],
    });
    if (answer.status !== 201 || !isBooking(answer.body))
      throw new Error(`selling the event out answered ${said(answer)}`);
  }
}
