/** Refuses unusable settings in .env before containers start: a database keeps the password that it was made with. */
import { z } from "zod";
import { ConfigError, integer, readConfig, secret } from "../shared/process/config.ts";

// Passwords become parts of URLs. RFC 3986 §2.3: unreserved characters need no escape there.
const password = z
  .string({ error: "is required" })
  .regex(/^[\w.~-]+$/, "must be of letters, digits, and - . _ ~ only");

const settings = z.object({
  AUTH_JWT_SECRET: secret,
  INTERNAL_TOKEN: secret,
  AUTH_JWT_SECRET_PREVIOUS: secret.optional(),
  INTERNAL_TOKEN_PREVIOUS: secret.optional(),
  POSTGRES_PASSWORD: password,
  ONSALE_PASSWORD: password,
  REPLICATION_PASSWORD: password,
  MONITOR_PASSWORD: password,
  CLIENT_CONNECTIONS_MAX: integer({ min: 1, max: 5_000, default: 200 }),
  CLIENT_REQUESTS_MAX: integer({ min: 1, max: 1_000_000, default: 2_000 }),
  RATE_LIMIT_PER_USER: integer({ min: 0, max: 100_000, default: 20 }),
  RATE_LIMIT_PER_ORGANIZER: integer({ min: 0, max: 100_000, default: 100 }),
  RATE_LIMIT_PER_ADDRESS: integer({ min: 0, max: 100_000, default: 500 }),
});

try {
  readConfig(settings, process.env);
} catch (error) {
  if (!(error instanceof ConfigError)) throw error;
  console.error(`.env: ${error.message}`);
  process.exitCode = 1;
}
