/** What was asked for on the command line. */
import { parseArgs } from "node:util";
import { NUMBERS, problemOf, SCENARIOS, type ScenarioName } from "./lib/settings.ts";

export interface Asked {
  readonly scenario: ScenarioName;
  readonly ownCluster: boolean;
  /** Settings of the scenario that the command line gives; they go before the environment's. */
  readonly env: Readonly<Record<string, string>>;
}

const USAGE = `use: npm run k6 -- ${SCENARIOS.join("|")} [--seconds N] [--rate N] [--own-cluster]`;
const FLAGS = { seconds: "DURATION_SECONDS", rate: "RATE_PER_SECOND" } as const;

/** Throws, with one line for people, when there is no such scenario or option, or a number cannot be used. */
export function readArguments(argv: readonly string[]): Asked {
  const { values, positionals } = parse(argv);
  const [given, ...more] = positionals;
  const scenario = SCENARIOS.find((name) => name === given);
  if (scenario === undefined || more.length > 0)
    throw new Error(
      given === undefined ? USAGE : `there is no scenario '${positionals.join(" ")}'; ${USAGE}`,
    );
  const env: Record<string, string> = {};
  for (const flag of ["seconds", "rate"] as const) {
    const value = values[flag];
    if (value === undefined) continue;
    const problem = problemOf(`--${flag}`, value, NUMBERS[FLAGS[flag]]);
    if (problem !== undefined) throw new Error(problem);
    env[FLAGS[flag]] = value;
  }
  return { scenario, ownCluster: values["own-cluster"] === true, env };
}

function parse(argv: readonly string[]) {
  try {
    return parseArgs({
      args: [...argv],
      allowPositionals: true,
      options: { seconds: { type: "string" }, rate: { type: "string" }, "own-cluster": { type: "boolean" } },
    });
  } catch (error) {
    // Its first sentence names the option; the rest is advice about option syntax.
    const [reason = ""] = (error instanceof Error ? error.message : String(error)).split(/\.\s/);
    throw new Error(`${reason}; ${USAGE}`, { cause: error });
  }
}
