/**
 * Settings come from the environment, once, in a role's main.ts; nothing else reads `process.env`.
 * A schema validates them together, so that an operator sees every mistake at once instead of one per restart.
 */
import { z } from "zod";

/** The settings of a role cannot be used; `message` lists every problem, one per line. */
export class ConfigError extends Error {
  override readonly name = "ConfigError";
}

/** The secrets of .env.example begin so. Everybody can read them, so only a developer may run with them. */
const EXAMPLE_SECRET = "example-only-";
const ENVIRONMENTS = ["production", "development"];

/**
 * Reads a role's settings. Empty variables count as absent. Throws ConfigError with all problems together; one of them is a
 * secret of .env.example, also inside a URL, unless ONSALE_ENV is development; one is an ONSALE_ENV that does not exist.
 */
export function readConfig<Schema extends z.ZodType>(
  schema: Schema,
  env: Readonly<Record<string, string | undefined>>,
): Readonly<z.infer<Schema>> {
  const given = Object.fromEntries(
    Object.entries(env).filter(([, value]) => value !== undefined && value !== ""),
  );
  const parsed = schema.safeParse(given);
  const environment = given["ONSALE_ENV"] ?? "production";
  const examples = environment === "development" ? [] : namesOfExamples(given);
  const known = ENVIRONMENTS.includes(environment);
  if (parsed.success && examples.length === 0 && known) return Object.freeze(parsed.data);
  const problems = [
    ...(known ? [] : [`  ONSALE_ENV: must be ${ENVIRONMENTS.join(" or ")}`]),
    ...(parsed.error?.issues ?? []).map(
      (issue) => `  ${issue.path.join(".") || "settings"}: ${issue.message}`,
    ),
    ...examples.map(
      (name) => `  ${name}: holds a secret of .env.example; make your own (openssl rand -hex 32)`,
    ),
  ];
  throw new ConfigError(`these settings cannot be used:\n${problems.join("\n")}`);
}

function namesOfExamples(given: Readonly<Record<string, string | undefined>>): string[] {
  return Object.keys(given).filter((name) => given[name]?.includes(EXAMPLE_SECRET));
}

/** A whole number within bounds, with a default. */
export function integer(bounds: { min: number; max: number; default: number }) {
  const { min, max } = bounds;
  return z
    .string()
    .regex(/^\d+$/, `must be a whole number from ${min} to ${max}`)
    .transform(Number)
    .pipe(z.number().min(min, `must be at least ${min}`).max(max, `must be at most ${max}`))
    .default(bounds.default);
}

/** A TCP port; 0 asks the system for a free one. */
export const port = (fallback: number) => integer({ min: 0, max: 65_535, default: fallback });

/** A URL with one of the given schemes (without the colon). */
export function urlOf(...schemes: string[]) {
  return z
    .string({ error: "is required" })
    .refine(
      (value) => schemes.some((scheme) => value.startsWith(`${scheme}://`)) && URL.canParse(value),
      `must be a URL that starts with ${schemes.map((scheme) => `${scheme}://`).join(" or ")}`,
    );
}

/** A list of URLs, separated by commas. */
export function urlListOf(...schemes: string[]) {
  return z
    .string({ error: "is required" })
    .transform((list) => list.split(",").map((url) => url.trim()))
    .pipe(z.array(urlOf(...schemes)).min(1));
}

/** A secret that is at least 32 characters long (256 bits, RFC 7518 §3.2, when it is random). */
export const secret = z.string({ error: "is required" }).min(32, "must be at least 32 characters");

export const logLevel = z
  .enum(["trace", "debug", "info", "warn", "error", "fatal", "silent"], {
    error: "must be trace, debug, info, warn, error, fatal or silent",
  })
  .default("info");

/**
 * How long a role that was told to stop goes on serving, in milliseconds, while `/readyz` says that it drains: time for a
 * load balancer, or for routers, to turn to others. With the drain after it (http-server.ts) it must fit into what lifecycle.ts
 * allows.
 */
export const drainGraceMs = integer({ min: 0, max: 9_000, default: 0 });

/** The address a server listens on. */
export const host = z.string().default("127.0.0.1");
