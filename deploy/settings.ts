/** Names every mistake in .env: `docker compose run --rm settings`. Each container refuses those that concern itself. */
import { z } from "zod";
import { routerConfig } from "../router/config.ts";
import { readSideConfig } from "../read-side/config.ts";
import { nodeConfig } from "../shard-node/config.ts";
import { ConfigError, integer, readConfig, secret } from "../shared/process/config.ts";

// Passwords become parts of URLs. RFC 3986 §2.3: unreserved characters need no escape there.
const password = z
  .string({ error: "is required" })
  .regex(/^[\w.~-]+$/, "must be of letters, digits, and - . _ ~ only");

/** What docker-compose.yml itself says to routers, nodes and the read side, such as addresses, is not in .env. */
const ofRoles = z
  .object({ ...readSideConfig.shape, ...nodeConfig.shape, ...routerConfig.shape })
  .partial().shape;

const settings = z
  .object({
    ...ofRoles,
    INTERNAL_TOKEN: secret,
    NODE_USER_COMMANDS_MAX: nodeConfig.shape.USER_COMMANDS_MAX,
    READ_SIDE_STATEMENT_TIMEOUT_MS: readSideConfig.shape.STATEMENT_TIMEOUT_MS,
    ONSALE_USER: z.enum(["onsale", "onsale_2"], { error: "must be onsale or onsale_2" }).default("onsale"),
    POSTGRES_PASSWORD: password,
    ONSALE_PASSWORD: password,
    REPLICATION_PASSWORD: password,
    MONITOR_PASSWORD: password,
    READ_SIDE_PASSWORD: password,
    REDIS_PASSWORD: password,
    RABBITMQ_PASSWORD: password,
    AUDIT_INTERVAL_SECONDS: integer({ min: 1, max: 86_400, default: 600 }),
    POOL_SIZE: integer({ min: 1, max: 1_000, default: 14 }),
    CLIENT_CONNECTIONS_MAX: integer({ min: 1, max: 5_000, default: 200 }),
    CLIENT_REQUESTS_MAX: integer({ min: 1, max: 1_000_000, default: 2_000 }),
  })
  .refine((given) => (given.AUTH_JWT_SECRET === undefined) !== (given.AUTH_JWKS_URL === undefined), {
    path: ["AUTH_JWT_SECRET"],
    message: "give either AUTH_JWT_SECRET or AUTH_JWKS_URL",
    when: () => true,
  });

try {
  readConfig(settings, process.env);
} catch (error) {
  if (!(error instanceof ConfigError)) throw error;
  console.error(`.env: ${error.message}`);
  process.exitCode = 1;
}
