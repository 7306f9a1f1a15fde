/** The settings of a router. Every bound has a name and a unit. */
import { z } from "zod";
import {
  drainGraceMs,
  host,
  integer,
  logLevel,
  port,
  secret,
  urlListOf,
  urlOf,
} from "../shared/process/config.ts";
import { tracingSettings } from "../shared/watch/start-tracing.ts";
import { networksFrom } from "./callers/client-address.ts";

/**
 * Proxies whose `X-Forwarded-For` a router believes. Loopback addresses are in it by default: a process on this machine that
 * talks to a router is a proxy or a tool, not a client.
 */
const trustedProxies = z
  .string()
  .default("127.0.0.0/8,::1")
  .transform((list, context) => {
    const networks = networksFrom(list.split(",").map((network) => network.trim()));
    if (networks !== undefined) return networks;
    context.addIssue("must be addresses or networks such as 10.0.0.0/8, separated by commas");
    return z.NEVER;
  });

/** Origins as browsers write them (RFC 6454 §6.2): exactly these are compared. */
const corsOrigins = z
  .string()
  .optional()
  .transform((list, context) => {
    const origins = list?.split(",").map((origin) => origin.trim()) ?? [];
    if (
      origins.every(
        (origin) => /^https?:/.test(origin) && URL.canParse(origin) && new URL(origin).origin === origin,
      )
    )
      return new Set(origins);
    context.addIssue("must be origins such as https://shop.example, separated by commas");
    return z.NEVER;
  });

export const routerConfig = z
  .object({
    NODE_URLS: urlListOf("http", "https"),
    INTERNAL_TOKEN: secret,
    AUTH_JWT_SECRET: secret.optional(),
    /** Tokens that it signed stay good while the secret is exchanged. */
    AUTH_JWT_SECRET_PREVIOUS: secret.optional(),
    AUTH_JWKS_URL: urlOf("http", "https").optional(),
    AUTH_JWT_ISSUER: z.string().optional(),
    AUTH_JWT_AUDIENCE: z.string().optional(),
    REDIS_URL: urlOf("redis", "rediss").optional(),
    /** RabbitMQ, which takes booking requests; without it every booking is decided directly. */
    AMQP_URL: urlOf("amqp", "amqps").optional(),
    /** The read side, which answers lists of bookings and statistics; without it they are refused. */
    READ_SIDE_URL: urlOf("http", "https").optional(),
    /** Makes receipts of booking requests; by default AUTH_JWT_SECRET does. */
    RECEIPT_SECRET: secret.optional(),
    HOST: host,
    /** The address of the admin port; by default the address of the API. */
    ADMIN_HOST: host.unwrap().optional(),
    PORT: port(8080),
    ADMIN_PORT: port(8081),
    LOG_LEVEL: logLevel,
    DRAIN_GRACE_MS: drainGraceMs,
    /** A command that takes longer is answered with 503. */
    COMMAND_DEADLINE_MS: integer({ min: 100, max: 60_000, default: 5_000 }),
    READ_DEADLINE_MS: integer({ min: 100, max: 60_000, default: 2_000 }),
    RPC_BATCH_MAX: integer({ min: 1, max: 5_000, default: 500 }),
    RPC_IN_FLIGHT_MAX: integer({ min: 1, max: 64, default: 4 }),
    /** Commands that may wait for a call to their shard. One event takes at most half of the places. */
    SHARD_QUEUE_MAX: integer({ min: 1, max: 100_000, default: 10_000 }),
    /** A command that would wait longer for a call is refused. */
    SHARD_WAIT_MAX_MS: integer({ min: 10, max: 60_000, default: 1_000 }),
    /** Commands of one user for one event that may be under way. */
    USER_COMMANDS_MAX: integer({ min: 1, max: 1_000, default: 5 }),
    CACHE_EVENTS_MAX: integer({ min: 1, max: 1_000_000, default: 10_000 }),
    CONNECTIONS_MAX: integer({ min: 1, max: 1_000_000, default: 20_000 }),
    /** Writes a second of a buyer, of an organizer, and of all of them at one address; 0 is no limit. */
    RATE_LIMIT_PER_USER: integer({ min: 0, max: 100_000, default: 20 }),
    RATE_LIMIT_PER_ORGANIZER: integer({ min: 0, max: 100_000, default: 100 }),
    RATE_LIMIT_PER_ADDRESS: integer({ min: 0, max: 100_000, default: 500 }),
    TRUSTED_PROXIES: trustedProxies,
    /** Whose pages may use the API. */
    CORS_ORIGINS: corsOrigins,
    /** Whether a change of an event must say which version it is made for. */
    IF_MATCH_REQUIRED: z.enum(["true", "false"], { error: "must be true or false" }).default("false"),
    /** Whether `/docs` and `/openapi.json` are served. */
    DOCUMENTATION: z.enum(["on", "off"], { error: "must be on or off" }).default("on"),
    ...tracingSettings,
  })
  .refine((config) => (config.AUTH_JWT_SECRET === undefined) !== (config.AUTH_JWKS_URL === undefined), {
    path: ["AUTH_JWT_SECRET"],
    message: "give either AUTH_JWT_SECRET or AUTH_JWKS_URL",
    // Checked even when other settings are wrong: an operator sees all problems together.
    when: () => true,
  })
  .refine((config) => config.AUTH_JWT_SECRET_PREVIOUS === undefined || config.AUTH_JWT_SECRET !== undefined, {
    path: ["AUTH_JWT_SECRET_PREVIOUS"],
    message: "goes with AUTH_JWT_SECRET only",
    when: () => true,
  })
  .refine(
    ({ AMQP_URL, AUTH_JWT_SECRET, RECEIPT_SECRET }) =>
      AMQP_URL === undefined || (AUTH_JWT_SECRET ?? RECEIPT_SECRET) !== undefined,
    {
      path: ["RECEIPT_SECRET"],
      message: "is required with AMQP_URL when there is no AUTH_JWT_SECRET",
      when: () => true,
    },
  );
export type RouterConfig = z.infer<typeof routerConfig>;
