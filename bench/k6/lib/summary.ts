/**
 * What a run leaves behind: k6's metrics as JSON, in a file. It prints no figure, and k6 itself prints none when there is a
 * handleSummary: nobody knows yet whether the run broke an invariant, and a speed that was reached by that is none.
 */
import type { Load } from "./load.ts";
import type { Prepared } from "./prepare.ts";
import type { ScenarioName, Settings } from "./settings.ts";

/** What is read of k6's summary (k6's manual, "Custom summary"). */
interface K6Summary {
  readonly metrics: Readonly<Record<string, Metric>>;
  /** All checks: no scenario has groups. */
  readonly root_group: { readonly checks: readonly Check[] };
  /** What setup() returned; not there when it failed. */
  readonly setup_data?: Prepared;
}

interface Check {
  readonly name: string;
  readonly fails: number;
}

interface Metric {
  /** Latencies are in milliseconds. */
  readonly values: Readonly<Record<string, number>>;
  /** By expression, such as "p(99)<=500". */
  readonly thresholds?: Readonly<Record<string, { readonly ok: boolean }>>;
}

/** The content of the file. */
interface RunResult {
  readonly scenario: ScenarioName;
  readonly settings: Omit<Settings, "secret">;
  /** How many iterations were to arrive. */
  readonly arrivals: number;
  /** How long the load lasted; less than the setting when it was interrupted. */
  readonly seconds: number;
  readonly metrics: Readonly<Record<string, Metric>>;
  /** What was not as it must be, and how often. */
  readonly broken: readonly Check[];
}

/** The scenario's handleSummary. A run whose preparation failed leaves nothing. */
export function keeper(settings: Settings, { arrivals }: Load) {
  const { secret: _, ...shown } = settings;
  const { scenario, resultFile, isAudited, durationSeconds } = settings;
  return ({ metrics, root_group, setup_data: prepared }: K6Summary): Record<string, string> => {
    if (prepared === undefined) return {};
    const seconds = Math.min((Date.now() - prepared.startedAtMs) / 1000, durationSeconds);
    const broken = root_group.checks
      .filter(({ fails }) => fails > 0)
      .map(({ name, fails }) => ({ name, fails }));
    const result: RunResult = { scenario, settings: shown, arrivals, seconds, metrics, broken };
    const hint = `\nThe figures are in ${resultFile}. Before you believe any: npm run audit\n`;
    return { [resultFile]: JSON.stringify(result, null, 2), stdout: isAudited ? "" : hint };
  };
}
