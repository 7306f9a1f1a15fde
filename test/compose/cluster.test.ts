/** The cluster of docker-compose.yml, started and used as an operator would. The tests run in order on one cluster. */
import { afterAll, beforeAll, expect, test } from "vitest";
import { slotOf } from "../../shared/slots.ts";
import type { EventId } from "../../shared/ids.ts";
import type { Event } from "../../shared/wire.ts";
import { Client } from "../support/cluster.ts";
import { eventually } from "../support/eventually.ts";
import { Stack } from "./stack.ts";

/** Which docker-compose.yml promises, on two cores. */
const HEALTHY_MAX_MS = 120_000;
let stack: Stack;
let client: Client;
let startedInMs: number;
/** One event on each shard. */
let events: readonly [Event, Event];
let buyers = 0;

beforeAll(async () => {
  stack = await Stack.onFreePorts();
  await stack.compose("build", "--quiet");
  const asked = performance.now();
  await stack.up();
  startedInMs = performance.now() - asked;
  client = new Client(stack.apiUrl);
  events = [await givenEventOn("shard-a"), await givenEventOn("shard-b")];
});

afterAll(async () => {
  await stack.remove();
});

test("D2: the cluster is healthy within two minutes, on ports of 127.0.0.1 only, and sells on both shards", async () => {
  expect(startedInMs).toBeLessThan(HEALTHY_MAX_MS);
  const config = JSON.parse(await stack.compose("--profile", "*", "config", "--format", "json")) as {
    services: Record<string, { ports?: { host_ip?: string }[] }>;
  };
  const addresses = Object.values(config.services).flatMap(({ ports = [] }) =>
    ports.map((port) => port.host_ip),
  );
  expect(addresses.length).toBeGreaterThan(2);
  expect(new Set(addresses)).toEqual(new Set(["127.0.0.1"]));

  for (const event of events) {
    const booked = await bookNew(event);
    expect(booked.status).toBe(201);
    expect((await client.readBooking(booked.body.id, booked.body.userId)).body.status).toBe("confirmed");
    expect((await client.readEvent(event.id)).availableTickets).toBe(event.totalTickets - 1);
  }
});

/** An event whose slot the shard owns; the first migration deals the lower half to shard-a. */
async function givenEventOn(shard: "shard-a" | "shard-b"): Promise<Event> {
  return eventually(`an event lies on ${shard}`, async () => {
    const event = await client.createEvent({ totalTickets: 100_000 });
    return slotOf(event.id as EventId) < 2048 === (shard === "shard-a") && event;
  });
}

/** One ticket for a user who has none. */
async function bookNew(event: Event) {
  buyers += 1;
  return client.book(event.id, `buyer-${buyers}`);
}
