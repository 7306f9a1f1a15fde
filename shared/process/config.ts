/**
 * A role reads its settings once, in its main.ts; nothing else reads `process.env`. One schema checks all of them together, so
 * an operator sees every mistake at once.
 */
import { z } from "zod";

/** The settings of a role cannot be used. `message` lists all problems, one a line. */
export class ConfigError extends Error {
  override readonly name = "ConfigError";
}

/** The secrets of .env.example begin with this. Everybody can read them, so only development may use them. */
const EXAMPLE_SECRET = "example-only-";
/** Values that are harmless only where nobody else is. */
const DEVELOPMENT_ONLY: Readonly<Record<string, string>> = { WEBHOOK_TARGETS: "any" };
const ENVIRONMENTS = ["production", "development"];

/**
 * Reads a role's settings and ignores empty variables. Throws ConfigError with all problems. An unknown ONSALE_ENV is a
 * problem; so are a secret of .env.example, even inside a URL, and what only development may have, unless ONSALE_ENV is that.
 */
export function readConfig<Schema extends z.ZodType>(
  schema: Schema,
  env: Readonly<Record<string, string | undefined>>,
): Readonly<z.infer<Schema>> {
  const settings = Object.fromEntries(
    Object.entries(env).filter(([, value]) => value !== undefined && value !== ""),
  );
  const parsed = schema.safeParse(settings);
  const environment = settings["ONSALE_ENV"] ?? "production";
  const isDevelopment = environment === "development";
  const examples = isDevelopment ? [] : namesOfExamples(settings);
  const dangers = isDevelopment
    ? []
    : Object.entries(DEVELOPMENT_ONLY).filter(([name, value]) => settings[name] === value);
  const known = ENVIRONMENTS.includes(environment);
  if (parsed.success && examples.length === 0 && dangers.length === 0 && known)
    return Object.freeze(parsed.data);
  const problems = [
    ...(known ? [] : [`  ONSALE_ENV: must be ${ENVIRONMENTS.join(" or ")}`]),
    ...(parsed.error?.issues ?? []).map(
      (issue) => `  ${issue.path.join(".") || "settings"}: ${issue.message}`,
    ),
    ...examples.map(
      (name) => `  ${name}: holds a secret of .env.example; make your own (openssl rand -hex 32)`,
    ),
    ...dangers.map(([name, value]) => `  ${name}: ${value} goes with ONSALE_ENV=development only`),
  ];
  throw new ConfigError(`these settings cannot be used:\n${problems.join("\n")}`);
}

function namesOfExamples(settings: Readonly<Record<string, string | undefined>>): string[] {
  return Object.keys(settings).filter((name) => settings[name]?.includes(EXAMPLE_SECRET));
}

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

/** A URL with one of these schemes (without the colon). */
export function urlOf(...schemes: string[]) {
  return z
    .string({ error: "is required" })
    .refine(
      (value) => schemes.some((scheme) => value.startsWith(`${scheme}://`)) && URL.canParse(value),
      `must be a URL that starts with ${schemes.map((scheme) => `${scheme}://`).join(" or ")}`,
    );
}

/** URLs, separated by commas. */
export function urlListOf(...schemes: string[]) {
  return z
    .string({ error: "is required" })
    .transform((list) => list.split(",").map((url) => url.trim()))
    .pipe(z.array(urlOf(...schemes)).min(1));
}

/** At least 32 characters: 256 bits when they are random bytes (RFC 7518 §3.2). */
export const secret = z.string({ error: "is required" }).min(32, "must be at least 32 characters");

export const logLevel = z
  .enum(["trace", "debug", "info", "warn", "error", "fatal", "silent"], {
    error: "must be trace, debug, info, warn, error, fatal or silent",
  })
  .default("info");

/**
 * How long a stopping role still serves while `/readyz` says that it drains. In this time load balancers and routers turn to
 * other processes. Grace and drain (http-server.ts) together must fit into DRAIN_MAX_SECONDS (lifecycle.ts).
 */
export const drainGraceMs = integer({ min: 0, max: 9_000, default: 0 });

/** The address that a server listens on. */
export const host = z.string().default("127.0.0.1");
