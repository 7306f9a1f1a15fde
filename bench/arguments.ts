/** What was asked for on the command line. */
import { parseArgs } from "node:util";
import type { NumberOption, Part } from "./part.ts";

export interface Asked {
  readonly parts: readonly Part[];
  /** undefined: each part has its own. */
  readonly seconds: number | undefined;
  readonly json: boolean;
  /** Those of all parts together, the defaults filled in. */
  readonly options: Readonly<Record<string, number>>;
}

const SECONDS = { means: "seconds that each measurement counts", default: 0, min: 0.5, max: 300 };

/** Reads them. Throws, with one line for people, when there is no such part or option, or a number cannot be used. */
export function readArguments(argv: readonly string[], known: readonly Part[]): Asked {
  const names = known.map(({ name }) => name);
  const { values, positionals } = parse(argv, known);
  const unknown = positionals.filter((given) => !names.includes(given));
  if (unknown.length > 0)
    throw new Error(`there is no part ${unknown.join(", ")}; there are ${names.join(", ")}`);
  const parts = known.filter(({ name, onlyNamed = false }) =>
    positionals.length === 0 ? !onlyNamed : positionals.includes(name),
  );
  const { seconds, json, ...others } = values;
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
    options: Object.fromEntries(options),
  };
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
        ...Object.fromEntries(ofParts.map((name) => [name, { type: "string" } as const])),
      },
    });
  } catch (error) {
    // Its first sentence names the option; the rest is advice about option syntax.
    const [reason = ""] = (error instanceof Error ? error.message : String(error)).split(". ");
    throw new Error(
      `${reason.trim()}; there are ${["seconds", "json", ...ofParts].map((name) => `--${name}`).join(", ")}`,
    );
  }
}

function numberOf(name: string, given: string | boolean, { means, min, max }: NumberOption): number {
  const value = typeof given === "string" && given.trim() !== "" ? Number(given) : Number.NaN;
  if (value >= min && value <= max) return value;
  throw new Error(`--${name} ${String(given)}: give ${means}, a number from ${min} to ${max}`);
}
