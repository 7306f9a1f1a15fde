/** The command line of the bench. */
import { parseArgs } from "node:util";
import type { NumberOption, Part } from "./part.ts";

export interface Asked {
  readonly parts: readonly Part[];
  /** undefined: each part takes its default. */
  readonly seconds: number | undefined;
  readonly json: boolean;
  /** Show the usage and run nothing. */
  readonly help: boolean;
  /** The options of all parts that run; an option that was not given has its default. */
  readonly options: Readonly<Record<string, number>>;
}

const SECONDS = { means: "seconds that each measurement counts", default: 0, min: 0.5, max: 300 };

/** Reads the command line. Throws, with one line for people, when there is no such part or option, or a number cannot be used. */
export function readArguments(argv: readonly string[], known: readonly Part[]): Asked {
  const names = known.map(({ name }) => name);
  const { values, positionals } = parse(argv, known);
  const unknown = positionals.filter((given) => !names.includes(given));
  if (unknown.length > 0)
    throw new Error(`there is no part ${unknown.join(", ")}; there are ${names.join(", ")}`);
  const parts = known.filter(({ name, onlyNamed = false }) =>
    positionals.length === 0 ? !onlyNamed : positionals.includes(name),
  );
  const { seconds, json, help, ...others } = values;
  const declared: Readonly<Record<string, NumberOption>> = Object.fromEntries(
    parts.flatMap((part) => Object.entries(part.options ?? {})),
  );
  for (const name of Object.keys(others)) {
    const owner = known.find((part) => name in (part.options ?? {}));
    if (!(name in declared)) throw new Error(`--${name} is an option of ${owner?.name}, which does not run`);
  }
  const options = Object.entries(declared).map(([name, option]) => {
    const given = others[name];
    return [name, given === undefined ? option.default : numberOf(name, given, option)] as const;
  });
  return {
    parts,
    seconds: seconds === undefined ? undefined : numberOf("seconds", seconds, SECONDS),
    json: json === true,
    help: help === true,
    options: Object.fromEntries(options),
  };
}

/** The usage, for people. */
export function usageOf(known: readonly Part[]): string {
  const line = (name: string, means: string) => `  ${name.padEnd(22)}${means}\n`;
  const option = (name: string, { means, min, max }: Omit<NumberOption, "default">) =>
    line(`--${name} N`, `${means}, from ${min} to ${max}`);
  return [
    "use: npm run bench -- [PART …] [--seconds N] [--json] [OPTION …]\n\n",
    ...known.map(({ name, title, onlyNamed = false }) =>
      line(name, `${title}${onlyNamed ? " (only when it is named)" : ""}`),
    ),
    "\n",
    option("seconds", SECONDS),
    line("--json", "figures as JSON on standard output"),
    ...known.flatMap((part) =>
      Object.entries(part.options ?? {}).map(([name, declared]) =>
        option(name, { ...declared, means: `${part.name}: ${declared.means}` }),
      ),
    ),
  ].join("");
}

interface Parsed {
  readonly values: Readonly<Record<string, string | boolean | undefined>>;
  readonly positionals: readonly string[];
}

function parse(argv: readonly string[], known: readonly Part[]): Parsed {
  const ofParts = known.flatMap(({ options = {} }) => Object.keys(options));
  try {
    return parseArgs({
      args: [...argv],
      allowPositionals: true,
      options: {
        seconds: { type: "string" },
        json: { type: "boolean" },
        help: { type: "boolean", short: "h" },
        ...Object.fromEntries(ofParts.map((name) => [name, { type: "string" } as const])),
      },
    });
  } catch (error) {
    // Its first sentence names the option; the rest is advice about option syntax.
    const [reason = ""] = (error instanceof Error ? error.message : String(error)).split(/\.\s/);
    throw new Error(
      `${reason.trim()}; there are ${["seconds", "json", "help", ...ofParts].map((name) => `--${name}`).join(", ")}`,
    );
  }
}

function numberOf(name: string, given: string | boolean, option: NumberOption): number {
  const { means, min, max, whole = false } = option;
  const value = typeof given === "string" && given.trim() !== "" ? Number(given) : Number.NaN;
  if (value >= min && value <= max && (!whole || Number.isInteger(value))) return value;
  const kind = whole ? "a whole number" : "a number";
  throw new Error(`--${name} ${String(given)}: give ${means}, ${kind} from ${min} to ${max}`);
}
