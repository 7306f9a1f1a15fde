/** The settings of `npm start`. All have a default, so that it starts on a fresh machine. */
import { resolve } from "node:path";
import { z } from "zod";
import { routerConfig } from "../../router/config.ts";
import { nodeConfig } from "../../shard-node/config.ts";
import { readSideConfig } from "../../read-side/config.ts";
import { host, integer, logLevel, port, readConfig, secret, urlOf } from "../../shared/process/config.ts";

export type Settings = ReturnType<typeof readSettings>;

const schema = z
  .object({
    HOST: host,
    PORT: port(8080),
    ADMIN_PORT: port(8081),
    SHARDS: integer({ min: 1, max: 16, default: 2 }),
    DATA_DIR: z.string().default(".onsale"),
    AUTH_JWT_SECRET: secret.optional(),
    AUTH_JWKS_URL: z
      .string()
      .optional()
      .refine((url) => url === undefined, "is for npm run router: npm start signs the tokens that it prints"),
    REDIS_URL: urlOf("redis", "rediss").optional(),
    AMQP_URL: urlOf("amqp", "amqps").optional(),
    /** The read side to use; without it, one is started. */
    READ_SIDE_URL: urlOf("http", "https").optional(),
    READ_SIDE: z.enum(["on", "off"], { error: "must be on or off" }).default("on"),
    // All roles share one terminal.
    LOG_LEVEL: logLevel.unwrap().default("warn"),
  })
  .refine(({ PORT, ADMIN_PORT }) => PORT === 0 || PORT !== ADMIN_PORT, {
    path: ["ADMIN_PORT"],
    message: "must differ from PORT",
  });

/** The settings of roles that npm start gives them. Their other settings may come from its environment. */
const GIVEN = {
  HOST: "127.0.0.1",
  NODE_URLS: "http://127.0.0.1",
  INTERNAL_TOKEN: "-".repeat(32),
  AUTH_JWT_SECRET: "-".repeat(32),
  SHARD_ID: "shard-0",
  DATABASE_URL: "postgres://127.0.0.1",
  CATALOG_URL: "postgres://127.0.0.1",
};

/** Reads them and checks those of the roles too, so that ConfigError is thrown before any process starts. */
export function readSettings(env: Readonly<Record<string, string | undefined>>) {
  const settings = readConfig(schema, env);
  readConfig(routerConfig, { ...env, ...GIVEN });
  readConfig(nodeConfig, { ...env, ...GIVEN });
  if (settings.READ_SIDE === "on") readConfig(readSideConfig, { ...env, ...GIVEN });
  return { ...settings, DATA_DIR: resolve(settings.DATA_DIR) };
}
