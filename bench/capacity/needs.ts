/** What a plan takes of machines, network and disks: the plan's own numbers times what a request moves. */
import type { Traffic } from "./costs.ts";
import type { Demand } from "./demand.ts";
import type { Plan } from "./model.ts";
import { CLIENT_CONNECTIONS_MAX, DATABASE_CONNECTIONS, LIMITS, REDIS_CONNECTIONS } from "./product.ts";
import { rateOf } from "./shard-plan.ts";

const BITS = 8;
const GIGA = 1e9;
const MEGA = 1e6;
const SECONDS_AN_HOUR = 3_600;

export interface Need {
  readonly of: string;
  readonly what: string;
  readonly unit: "" | "cores" | "Gbit/s" | "MB/s" | "MB" | "GB an hour" | "a second";
  readonly value: number;
}

/** In an order that one can read. `utilisation` is how busy a core may be. */
export function needsOf(plan: Plan, demand: Demand, traffic: Traffic, utilisation: number): Need[] {
  const { shards, routers, published, misses } = plan;
  const busiest = shards.reduce((most, shard) => (shard.postgres > most.postgres ? shard : most));
  const loads = shards.map(({ load }) => ({
    rate: rateOf(load),
    inside: load.hot * traffic.inside.hot + load.spread * traffic.inside.spread,
    log: load.hot * traffic.log.hot + load.spread * traffic.log.spread,
  }));
  const flushes = shards.map(({ lanes }) =>
    lanes.reduce((sum, { load, batch }) => sum + (batch === 0 ? 0 : rateOf(load) / batch), 0),
  );
  const total = (values: readonly number[]) => values.reduce((sum, value) => sum + value, 0);
  const bookings = demand.hot + demand.spread;
  const client = (side: "request" | "answer") =>
    demand.reads * traffic.read[side] +
    demand.refusals * traffic.refusal[side] +
    bookings * traffic.booking[side];
  const databaseCores = Math.ceil(busiest.postgres / utilisation);
  const redisCores = Math.ceil(plan.redis / utilisation);
  const gigabits = (bytes: number) => (bytes * BITS) / GIGA;
  return [
    need("routers", "processes, a core each", "", routers),
    need("nodes", "processes, a core each", "", shards.length),
    need("PostgreSQL", "cores of the busiest shard", "cores", databaseCores),
    need("Redis", "cores that its one thread would need", "cores", redisCores),
    need(
      "all",
      "cores, every shard sized like the busiest",
      "cores",
      routers + shards.length * (1 + databaseCores) + redisCores,
    ),
    need("clients", "to the routers", "Gbit/s", gigabits(client("request"))),
    need("clients", "from the routers", "Gbit/s", gigabits(client("answer"))),
    need(
      "shards",
      "router, node and PostgreSQL, both ways",
      "Gbit/s",
      gigabits(total(loads.map(({ inside }) => inside))),
    ),
    need(
      "shards",
      "the same for the busiest shard",
      "Gbit/s",
      gigabits(Math.max(...loads.map(({ inside }) => inside))),
    ),
    need(
      "Redis",
      "to the routers",
      "Gbit/s",
      gigabits((published.events * routers + misses) * traffic.published.out),
    ),
    need("Redis", "commands", "a second", misses + published.events * traffic.publishedCommands),
    need("Redis", "memory for all events", "MB", (traffic.kept * plan.events) / MEGA),
    need("clients", "connections that the routers take at most", "", routers * CLIENT_CONNECTIONS_MAX),
    need(
      "node",
      "connections from routers, commands and reads under way",
      "",
      routers * LIMITS.inFlightMax * 2,
    ),
    need("PostgreSQL", "connections of a shard", "", DATABASE_CONNECTIONS),
    need(
      "Redis",
      "connections",
      "",
      routers * REDIS_CONNECTIONS.router + shards.length * REDIS_CONNECTIONS.node,
    ),
    need("PostgreSQL", "write-ahead log of all shards", "MB/s", total(loads.map(({ log }) => log)) / MEGA),
    need(
      "PostgreSQL",
      "write-ahead log of the busiest shard",
      "MB/s",
      Math.max(...loads.map(({ log }) => log)) / MEGA,
    ),
    need("PostgreSQL", "flushes of the busiest shard", "a second", Math.max(...flushes)),
    need(
      "PostgreSQL",
      "growth of all shards",
      "GB an hour",
      (bookings * traffic.growth * SECONDS_AN_HOUR) / GIGA,
    ),
  ];
}

function need(of: string, what: string, unit: Need["unit"], value: number): Need {
  return { of, what, unit, value };
}
