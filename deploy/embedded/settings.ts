/** The settings of `npm start`. Everything has a default: it must start on a fresh machine with none of them. */
import { resolve } from "node:path";
import { z } from "zod";
import { host, integer, logLevel, port, readConfig, secret, urlOf } from "../../shared/config.ts";

export type Settings = ReturnType<typeof readSettings>;

const schema = z
  .object({
    HOST: host,
    PORT: port(8080),
    ADMIN_PORT: port(8081),
    SHARDS: integer({ min: 1, max: 16, default: 2 }),
    DATA_DIR: z.string().default(".onsale"),
    AUTH_JWT_SECRET: secret.optional(),
    REDIS_URL: urlOf("redis", "rediss").optional(),
    // The roles share one terminal: what they say should be worth reading.
    LOG_LEVEL: logLevel.unwrap().default("warn"),
  })
  .refine(({ PORT, ADMIN_PORT }) => PORT === 0 || PORT !== ADMIN_PORT, {
    path: ["ADMIN_PORT"],
    message: "must differ from PORT",
  });

/** Reads them; throws ConfigError with every problem. */
export function readSettings(env: Readonly<Record<string, string | undefined>>) {
  const settings = readConfig(schema, env);
  return { ...settings, DATA_DIR: resolve(settings.DATA_DIR) };
}
