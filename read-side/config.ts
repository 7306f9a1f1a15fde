/** The settings of the read side. */
import { z } from "zod";
import { drainGraceMs, host, integer, logLevel, port, secret, urlListOf } from "../shared/process/config.ts";
import { postgresUrl } from "../shared/database/url.ts";
import { tracingSettings } from "../shared/watch/start-tracing.ts";

/** What a rebuild from outside needs too. */
const filling = {
  /** A database of its own. No pooler that lends connections for a transaction only: a rebuild holds a lock by its session. */
  DATABASE_URL: postgresUrl,
  /** Nodes to ask for the map at the start; the map names them all. */
  NODE_URLS: urlListOf("http", "https"),
  INTERNAL_TOKEN: secret,
  LOG_LEVEL: logLevel,
  CONNECT_TIMEOUT_MS: integer({ min: 50, max: 60_000, default: 2_000 }),
  /** Of one that writes what has changed. */
  WRITE_TIMEOUT_MS: integer({ min: 50, max: 60_000, default: 10_000 }),
  /** Connections that write; each shard needs one for moments. */
  WRITE_CONNECTIONS: integer({ min: 1, max: 100, default: 4 }),
  POOL_WAITERS_MAX: integer({ min: 1, max: 10_000, default: 200 }),
};

export const rebuildConfig = z.object(filling);
export type RebuildConfig = z.infer<typeof rebuildConfig>;

export const readSideConfig = z.object({
  ...filling,
  /** Also admitted, while the token is being changed. */
  INTERNAL_TOKEN_PREVIOUS: secret.optional(),
  HOST: host,
  /** Where the admin port listens; HOST by default. */
  ADMIN_HOST: host.unwrap().optional(),
  PORT: port(9190),
  ADMIN_PORT: port(9191),
  DRAIN_GRACE_MS: drainGraceMs,
  /** Nothing is answered that is older. */
  READ_SIDE_LAG_MAX_SECONDS: integer({ min: 1, max: 3_600, default: 30 }),
  /** Of one that answers a question. A router waits two seconds for it. */
  STATEMENT_TIMEOUT_MS: integer({ min: 50, max: 60_000, default: 1_500 }),
  /** How long a question waits for a connection. The router then hears why before its call is over. */
  POOL_WAIT_MAX_MS: integer({ min: 10, max: 60_000, default: 300 }),
  /** Connections for the lists of users. */
  LIST_CONNECTIONS: integer({ min: 1, max: 100, default: 4 }),
  /** Connections for what organizers ask. */
  REPORT_CONNECTIONS: integer({ min: 1, max: 100, default: 2 }),
  /** Exports at once; each has a connection for moments. */
  EXPORTS_MAX: integer({ min: 1, max: 100, default: 2 }),
  EXPORT_MAX_SECONDS: integer({ min: 1, max: 86_400, default: 600 }),
  /** Lists that wait until they have a change. */
  WAITERS_MAX: integer({ min: 1, max: 100_000, default: 1_000 }),
  ...tracingSettings,
});
export type ReadSideConfig = z.infer<typeof readSideConfig>;
