/**
 * The settings of a scenario, from the environment. k6 hands it over as __ENV and the runner reads the same before it
 * starts k6, so this file imports nothing: k6 cannot load what Node.js finds in node_modules.
 */
export const SCENARIOS = ["on-sale", "mixed", "sold-out", "browse", "soak"] as const;
export type ScenarioName = (typeof SCENARIOS)[number];

export interface Settings {
  readonly scenario: ScenarioName;
  /** Of the router, without a slash at its end. */
  readonly routerUrl: string;
  /** Signs the tokens (HS256). */
  readonly secret: string;
  readonly durationSeconds: number;
  /** Iterations that arrive in a second; of a ramp, at its top. */
  readonly ratePerSecond: number;
  readonly events: number;
  /** Of each event. Not given: the scenario's own choice. */
  readonly tickets: number | undefined;
  /** Iterations under way at once. One that arrives when all are busy is dropped, and counted. */
  readonly vusMax: number;
  readonly bookingP99MaxMs: number;
  readonly readP99MaxMs: number;
  /** Answers that are neither a yes nor an expected no, as a share of all. */
  readonly failedShareMax: number;
  /** Arrivals that found no free VU, as a share of all. */
  readonly droppedShareMax: number;
}

/** The settings that have a number: its bounds, and whether it must be whole. */
const NUMBERS = {
  DURATION_SECONDS: { min: 1, max: 7 * 24 * 3600, whole: true },
  RATE_PER_SECOND: { min: 1, max: 100_000, whole: true },
  EVENTS: { min: 1, max: 100_000, whole: true },
  TICKETS: { min: 1, max: 10_000_000, whole: true },
  VUS_MAX: { min: 1, max: 10_000, whole: true },
  BOOKING_P99_MAX_MS: { min: 0.001, max: 60_000, whole: false },
  READ_P99_MAX_MS: { min: 0.001, max: 60_000, whole: false },
  FAILED_SHARE_MAX: { min: 0, max: 1, whole: false },
  DROPPED_SHARE_MAX: { min: 0, max: 1, whole: false },
} as const;
type NumberName = keyof typeof NUMBERS;

/** For two cores that k6 and the cluster share. */
const DEFAULTS: Readonly<Record<ScenarioName, { seconds: number; rate: number; events: number }>> = {
  "on-sale": { seconds: 30, rate: 500, events: 1 },
  mixed: { seconds: 30, rate: 500, events: 10_000 },
  "sold-out": { seconds: 30, rate: 500, events: 1 },
  browse: { seconds: 30, rate: 500, events: 1_000 },
  soak: { seconds: 1_800, rate: 200, events: 100 },
};
/** Enough VUs for answers that take this long on average; slower ones are a rush that queues up, and drop arrivals. */
const VU_SECONDS_PER_ARRIVAL = 0.4;
const VUS = { min: 20, max: 500 };

/** Why a text is not the number that `name` must be; undefined when it is. */
function problemOf(
  name: string,
  given: string,
  { min, max, whole }: { min: number; max: number; whole: boolean },
): string | undefined {
  const value = Number(given);
  if (value >= min && value <= max && (!whole || Number.isInteger(value))) return undefined;
  return `${name} must be a ${whole ? "whole " : ""}number from ${min} to ${max}, not '${given}'`;
}

/** Throws an Error that lists everything that cannot be used. Empty variables count as absent. */
export function readSettings(
  scenario: ScenarioName,
  env: Readonly<Record<string, string | undefined>>,
): Settings {
  const problems: string[] = [];
  const text = (name: string) => {
    const value = env[name]?.trim();
    return value === "" ? undefined : value;
  };
  const number = (name: NumberName): number | undefined => {
    const given = text(name);
    if (given === undefined) return undefined;
    const problem = problemOf(name, given, NUMBERS[name]);
    if (problem !== undefined) problems.push(problem);
    return Number(given);
  };
  const { seconds, rate, events } = DEFAULTS[scenario];
  const ratePerSecond = number("RATE_PER_SECOND") ?? rate;
  const vus = Math.ceil(ratePerSecond * VU_SECONDS_PER_ARRIVAL);
  const secret = text("AUTH_JWT_SECRET");
  if (secret === undefined)
    problems.push("AUTH_JWT_SECRET must be the secret that the cluster was started with");
  const settings: Settings = {
    scenario,
    routerUrl: (text("ROUTER_URL") ?? "http://127.0.0.1:8080").replace(/\/+$/, ""),
    secret: secret ?? "",
    durationSeconds: number("DURATION_SECONDS") ?? seconds,
    ratePerSecond,
    events: number("EVENTS") ?? events,
    tickets: number("TICKETS"),
    vusMax: number("VUS_MAX") ?? Math.min(Math.max(vus, VUS.min), VUS.max),
    bookingP99MaxMs: number("BOOKING_P99_MAX_MS") ?? 500,
    readP99MaxMs: number("READ_P99_MAX_MS") ?? 250,
    failedShareMax: number("FAILED_SHARE_MAX") ?? 0.001,
    droppedShareMax: number("DROPPED_SHARE_MAX") ?? 0.01,
  };
  if (problems.length > 0) throw new Error(problems.join("; "));
  return settings;
}
