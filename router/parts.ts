/** What the routes of a router work with. */
import type { Clock } from "../shared/clock.ts";
import type { Log } from "../shared/log.ts";
import type { Tracing } from "../shared/tracing.ts";
import type { TokenVerifier } from "../shared/tokens.ts";
import type { Booker } from "./booker.ts";
import type { Cluster } from "./cluster.ts";
import type { EventCache } from "./event-cache.ts";
import type { ClientAddress } from "./http/client-address.ts";
import type { WriteLimits } from "./http/write-limits.ts";
import type { RouterMetrics } from "./metrics.ts";

export interface RouterParts {
  readonly cluster: Cluster;
  readonly cache: EventCache;
  readonly booker: Booker;
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
