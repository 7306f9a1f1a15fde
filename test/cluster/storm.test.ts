import { expect, test } from "vitest";
import { audit } from "../../audit/audit.ts";
import { crowd, PATIENT, startTestCluster, tally } from "../support/running-cluster.ts";

interface Request {
  readonly user: string;
  readonly quantity: number;
  readonly key: string | undefined;
}

/** 2,000 requests by 1,000 users: every user asks twice; every third wants 2 tickets; every fifth repeats its own request. */
function stormRequests(): Request[] {
  return Array.from({ length: 1_000 }, (_, index) => index).flatMap((index) => {
    const user = `user-${index}`;
    const quantity = index % 3 === 0 ? 2 : 1;
    const [first, second] = index % 5 === 0 ? ["once", "once"] : ["first", "second"];
    return [
      { user, quantity, key: index % 2 === 0 || first === "once" ? first : undefined },
      { user, quantity, key: index % 2 === 0 || second === "once" ? second : undefined },
    ];
  });
}

test("B1 B3 B5: 2,000 requests by 1,000 users, 500 at a time, sell exactly the 500 tickets there are", async () => {
  await using cluster = await startTestCluster({ env: PATIENT });
  const client = cluster.client();
  const event = await client.createEvent({ totalTickets: 500 });

  const answers = await crowd(stormRequests(), async ({ user, quantity, key }) =>
    client.book(event.id, user, quantity, key === undefined ? {} : { "idempotency-key": key }),
  );

  const statuses = tally(answers.map((answer) => answer.status));
  expect(Object.keys(statuses).sort()).toEqual(["201", "409"]);
  const bookings = new Map(
    answers.filter((answer) => answer.status === 201).map(({ body }) => [body.id, body]),
  );
  const tickets = [...bookings.values()].reduce((sum, booking) => sum + booking.quantity, 0);
  expect(tickets).toBe(500);
  const perUser = new Map<string, number>();
  for (const { userId, quantity } of bookings.values())
    perUser.set(userId, (perUser.get(userId) ?? 0) + quantity);
  expect(Math.max(...perUser.values())).toBe(2);
  expect((await client.readEvent(event.id)).availableTickets).toBe(0);
  const report = await audit(cluster.catalogUrl);
  expect(report.violations).toEqual([]);
  expect(report).toMatchObject({ bookings: bookings.size, ticketsSold: 500 });
});
