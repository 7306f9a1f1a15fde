/** What the routes of a router work with. */
import type { Clock } from "../../shared/process/clock.ts";
import type { Log } from "../../shared/process/log.ts";
import type { Tracing } from "../../shared/watch/tracing.ts";
import type { TokenVerifier } from "../callers/tokens.ts";
import type { Cluster } from "../shards/cluster.ts";
import type { EventCache } from "../cache/event-cache.ts";
import type { ClientAddress } from "../callers/client-address.ts";
import type { WriteLimits } from "../callers/write-limits.ts";
import type { RouterMetrics } from "../metrics.ts";

export interface RouterParts {
  readonly cluster: Cluster;
  readonly cache: EventCache;
  readonly verifier: TokenVerifier;
  readonly metrics: RouterMetrics;
  readonly clock: Clock;
  readonly log: Log;
  /** undefined when it is off. */
  readonly tracing: Tracing | undefined;
  readonly commandDeadlineMs: number;
  readonly connectionsMax: number;
  readonly writeLimits: WriteLimits;
  readonly clientAddress: ClientAddress;
}
