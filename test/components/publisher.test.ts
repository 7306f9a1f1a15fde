import { expect, test, vi } from "vitest";
import { EventPublisher, type PublisherMetrics } from "../../shard-node/publisher.ts";
import { stoppedClock } from "../support/clock.ts";
import { snapshot } from "../support/snapshots.ts";

test("F2 F4: what Redis does not take is tried for ten seconds, dropped and counted, and what is newer is sent", async () => {
  const clock = stoppedClock();
  const metrics = { published: vi.fn(), dropped: vi.fn() } satisfies PublisherMetrics;
  const publish = vi.fn(async () => Promise.reject(new Error("CROSSSLOT")));
  const publisher = new EventPublisher({ publish }, clock, metrics);

  publisher.publish([snapshot(1)]);
  await vi.waitUntil(() => publish.mock.calls.length >= 2);
  clock.time += 10_000;
  const tried = publish.mock.calls.length;
  await vi.waitUntil(() => publish.mock.calls.length > tried);
  expect(metrics.dropped).not.toHaveBeenCalled();
  clock.time += 1;
  await vi.waitUntil(() => metrics.dropped.mock.calls.length > 0);
  expect(metrics.dropped.mock.calls).toEqual([["too_old", 1]]);

  const sent = publish.mock.calls.length;
  await publisher.close();
  expect(publish.mock.calls.length).toBe(sent);

  const working = vi.fn(async () => undefined);
  const next = new EventPublisher({ publish: working }, clock, metrics);
  next.publish([snapshot(2)]);
  await next.close();
  expect(working.mock.calls).toEqual([[[snapshot(2)]]]);
});
