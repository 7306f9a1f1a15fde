/**
 * The open model: people come when they like, whether those before them were answered or not. So k6 starts iterations at a
 * rate; one that finds no free VU is dropped and counted, and too many of them fail the run: then the load was not sent.
 */
import type { Options, Scenario } from "k6/options";
import { AT_ONCE, type RequestName } from "./requests.ts";
import type { Settings } from "./settings.ts";

export interface Load {
  /** How many iterations are to arrive in all. */
  readonly arrivals: number;
  readonly scenario: Scenario;
}

/** A request whose latency has a limit, and with `status` only the answers that have it. */
export interface Timed {
  readonly name: RequestName;
  readonly status?: number;
}

const RAMP_SHARE = 1 / 3;
const RAMP_FROM_SHARE = 0.1;

/** The same rate all the time. */
export function steady(settings: Settings): Load {
  const { durationSeconds, ratePerSecond } = settings;
  return {
    arrivals: durationSeconds * ratePerSecond,
    scenario: {
      ...common(settings),
      executor: "constant-arrival-rate",
      rate: ratePerSecond,
      duration: `${durationSeconds}s`,
    },
  };
}

/** From a tenth of the rate up to all of it in a third of the time, and on at that. */
export function ramp(settings: Settings): Load {
  const { durationSeconds, ratePerSecond } = settings;
  const [from, upSeconds] = [Math.ceil(ratePerSecond * RAMP_FROM_SHARE), durationSeconds * RAMP_SHARE];
  return {
    arrivals: upSeconds * ((from + ratePerSecond) / 2) + (durationSeconds - upSeconds) * ratePerSecond,
    scenario: {
      ...common(settings),
      executor: "ramping-arrival-rate",
      startRate: from,
      stages: [
        { target: ratePerSecond, duration: milliseconds(upSeconds) },
        { target: ratePerSecond, duration: milliseconds(durationSeconds - upSeconds) },
      ],
    },
  };
}

/** The options of a scenario, with the thresholds that make a run fail. */
export function optionsOf(
  settings: Settings,
  { scenario, arrivals }: Load,
  timed: readonly Timed[],
): Options {
  const { bookingP99MaxMs, readP99MaxMs, failedShareMax, droppedShareMax } = settings;
  const latencies = timed.map(({ name, status }): [string, string[]] => {
    const p99MaxMs = name === "read" || name === "list" ? readP99MaxMs : bookingP99MaxMs;
    return [latencyMetric(name, status), [`p(99)<=${p99MaxMs}`]];
  });
  return {
    scenarios: { [settings.scenario]: scenario },
    thresholds: {
      ...Object.fromEntries(latencies),
      http_req_failed: [`rate<=${failedShareMax}`],
      // A single answer that breaks the contract is a bug, whatever the load.
      checks: ["rate==1"],
      // k6 calls an arrival without a free VU dropped. On a machine without time for k6, arrivals are missing silently.
      dropped_iterations: [`count<=${Math.floor(arrivals * droppedShareMax)}`],
      iterations: [`count>=${Math.floor(arrivals * (1 - droppedShareMax))}`],
    },
    summaryTrendStats: ["min", "med", "p(90)", "p(99)", "p(99.9)", "max"],
    // Without the address, which differs for every event: k6 would keep a time series for each.
    systemTags: ["name", "method", "status", "check", "error_code", "expected_response", "scenario"],
    batch: AT_ONCE,
    batchPerHost: AT_ONCE,
    setupTimeout: "300s",
    userAgent: "onsale-k6",
  };
}

function common({ vusMax }: Settings) {
  // All VUs from the start: to make one later would take processor time from the measurement.
  return { preAllocatedVUs: vusMax, maxVUs: vusMax, timeUnit: "1s", gracefulStop: "15s" };
}

function latencyMetric(name: RequestName, status: number | undefined): string {
  return `http_req_duration{name:${name}${status === undefined ? "" : `,status:${status}`}}`;
}

const milliseconds = (seconds: number) => `${Math.round(seconds * 1000)}ms`;
