/** The parts of the benchmark, in the order in which they run. */
import type { Part } from "../part.ts";
import { capacity } from "./capacity.ts";
import { compare } from "./compare.ts";
import { engine } from "./engine.ts";
import { generator } from "./generator.ts";
import { hotEvent } from "./hot-event.ts";
import { memory } from "./memory.ts";
import { overload } from "./overload.ts";
import { queue } from "./queue.ts";
import { readSide } from "./read-side.ts";
import { reads } from "./reads.ts";
import { replication } from "./replication.ts";
import { scale } from "./scale.ts";
import { soldOut } from "./sold-out.ts";
import { steady } from "./steady.ts";
import { tracing } from "./tracing.ts";

/** What a cluster takes to boot, to be audited and to stop. */
const CLUSTER_SECONDS = 8;

export const PARTS: readonly Part[] = [
  {
    name: "generator",
    title: "is the load generator good enough to be believed?",
    seconds: 3,
    estimate: (seconds) => 2 * (seconds + 3) + 2,
    run: generator,
  },
  {
    name: "engine",
    title: "lanes and batches, without HTTP, beside a plain INSERT … SELECT",
    seconds: 4,
    estimate: (seconds) => CLUSTER_SECONDS + 12 + 6.5 * seconds,
    cluster: {},
    run: engine,
  },
  {
    name: "hot-event",
    title: "everybody books the same event",
    seconds: 5,
    estimate: (seconds) => CLUSTER_SECONDS + 7 + 1.3 * seconds,
    cluster: {},
    run: hotEvent,
  },
  {
    name: "steady",
    title: "half of the peak, as a crowd comes that does not wait",
    seconds: 8,
    estimate: (seconds) => CLUSTER_SECONDS + 12 + 1.3 * seconds,
    cluster: {},
    run: steady,
  },
  {
    name: "reads",
    title: "an event out of the router's memory",
    seconds: 5,
    estimate: (seconds) => CLUSTER_SECONDS + 14 + 4 * seconds,
    cluster: {},
    run: reads,
  },
  {
    name: "sold-out",
    title: "refusals when everything is sold",
    seconds: 4,
    estimate: (seconds) => CLUSTER_SECONDS + 4 + seconds,
    cluster: {},
    run: soldOut,
  },
  compare,
  queue,
  readSide,
  overload,
  scale,
  capacity,
  {
    name: "memory",
    title: "what the processes hold after a million bookings",
    seconds: 0,
    estimate: () => 150,
    onlyNamed: true,
    cluster: {},
    run: memory,
  },
  tracing,
  replication,
];
