/** What parts hand over to be drawn: data with a title, no drawing. */

export type Plot = LinePlot | BarPlot;

export interface LinePlot {
  readonly kind: "lines";
  readonly title: string;
  readonly x: Axis;
  readonly y: Axis;
  readonly lines: readonly Line[];
  readonly note?: string;
}

export interface Line {
  readonly name: string;
  /** x and y, by rising x. */
  readonly points: readonly (readonly [number, number])[];
  /** Drawn heavier: the one that the plot is about. */
  readonly emphasised?: boolean;
}

export interface Axis {
  readonly title: string;
  /** `percentile` spreads 0 … 100 so that 90, 99 and 99.9 are equally far apart; "linear" by default. */
  readonly scale?: "linear" | "log" | "percentile";
}

export interface BarPlot {
  readonly kind: "bars";
  readonly title: string;
  /** Of the values. */
  readonly axis: Axis;
  /** What each bar, or group of bars, is about. */
  readonly categories: readonly string[];
  /** Stacked on each other, or side by side. */
  readonly stacked: boolean;
  readonly bars: readonly { readonly name: string; readonly values: readonly (number | null)[] }[];
  readonly note?: string;
}
