/** A part of the benchmark does something, most often to a fresh cluster, and answers figures. */
import type { BenchCluster, ClusterOptions } from "./bench-cluster.ts";
import type { Figure } from "./figures.ts";
import type { Plot } from "./plots.ts";
import type { Progress } from "./progress.ts";
import type { Table } from "./tables.ts";

// What parts are written with, in one place.
export { atLeast, atMost, below, type Figure, median } from "./figures.ts";

/** Every part gets this. */
export interface BareContext<Option extends string = string> {
  /** How long each measurement of the part counts. */
  readonly seconds: number;
  /** Those that the part declares. */
  readonly options: Readonly<Record<Option, number>>;
  readonly signal: AbortSignal;
  readonly progress: Progress;
}

/** A part with a cluster gets this. */
export interface PartContext extends BareContext {
  readonly cluster: BenchCluster;
}

/** What a part found out. A part that has only figures answers those alone. */
export interface Outcome {
  readonly figures: readonly Figure[];
  readonly tables?: readonly Table[];
  /** Data; report/charts.ts draws them. */
  readonly plots?: readonly Plot[];
  /** What a reader must know, a sentence each. */
  readonly notes?: readonly string[];
  /** Why the run fails although there are figures, such as broken rows of a contender. A sentence each. */
  readonly problems?: readonly string[];
}

/** An option of one part, `--name NUMBER` on the command line. */
export interface NumberOption {
  /** For the usage, such as "requests a second". */
  readonly means: string;
  readonly default: number;
  readonly min: number;
  readonly max: number;
  /** Fractions are refused. */
  readonly whole?: boolean;
}

interface PartBasics<Option extends string> {
  readonly name: string;
  /** One line, for people. */
  readonly title: string;
  /** How long each measurement counts when `--seconds` does not say. */
  readonly seconds: number;
  /** About how long the part takes, booting included, for that many seconds a measurement. */
  estimate(seconds: number): number;
  /** The part runs only when it is named, because it takes too long for every run. */
  readonly onlyNamed?: boolean;
  readonly options?: Readonly<Record<Option, NumberOption>>;
}

/** A part with a cluster of its own, which is audited when it has ended. */
export interface ClusterPart<Option extends string = string> extends PartBasics<Option> {
  readonly cluster: ClusterOptions;
  run(context: PartContext & BareContext<Option>): Promise<Outcome | readonly Figure[]>;
}

/** A part that needs no cluster, or boots and audits its own. */
export interface BarePart<Option extends string = string> extends PartBasics<Option> {
  readonly cluster?: undefined;
  run(context: BareContext<Option>): Promise<Outcome | readonly Figure[]>;
}

export type Part = ClusterPart | BarePart;
