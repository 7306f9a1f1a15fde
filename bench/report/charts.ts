/**
 * Draws plots as SVG here and not in the browser, so that the page needs no script and no other host.
 */
import * as echarts from "echarts";
import type { Axis, BarPlot, LinePlot, Plot } from "../plots.ts";

const WIDTH = 640;
const HEIGHT = 380;
/** Colours that colour-blind people can tell apart (Okabe and Ito), dark enough for thin lines on white. */
const COLOURS = [
  "#0072b2",
  "#d55e00",
  "#009e73",
  "#cc79a7",
  "#8a6d00",
  "#56b4e9",
  "#4d4d4d",
  "#7b3294",
  "#a6761d",
  "#1b7837",
];
const FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif";

/** A palette gives a name the same colour in all plots of one sort. */
export class Palette {
  readonly #names = new Map<string, string[]>();

  /** `sort`: contenders, say, are told apart by other colours than processes are, and both have all of them. */
  colourOf(name: string, sort: string): string {
    const names = this.#names.get(sort) ?? [];
    if (!names.includes(name)) names.push(name);
    this.#names.set(sort, names);
    return COLOURS[names.indexOf(name) % COLOURS.length] ?? "#000000";
  }
}

/** One `<svg>` element, to be put into a page. */
export function svgOf(plot: Plot, palette: Palette): string {
  const chart = echarts.init(null, null, { renderer: "svg", ssr: true, width: WIDTH, height: HEIGHT });
  try {
    chart.setOption({
      animation: false,
      textStyle: { fontFamily: FONT, color: "#333" },
      // Widths of text are guesses here, so labels side by side need room.
      legend: {
        show: (plot.kind === "lines" ? plot.lines : plot.bars).length > 1,
        bottom: 0,
        icon: "roundRect",
        itemWidth: 14,
        itemHeight: 8,
        itemGap: 22,
        selectedMode: false,
      },
      grid: { left: 16, right: 24, top: 34, bottom: 62, outerBoundsMode: "same" },
      ...(plot.kind === "lines" ? linesOf(plot, palette) : barsOf(plot, palette)),
    });
    // Inside a page the element needs no name space.
    return chart.renderToSVGString().replace(/ xmlns(:\w+)?="[^"]*"/g, "");
  } finally {
    chart.dispose();
  }
}

function linesOf({ x, y, lines }: LinePlot, palette: Palette) {
  return {
    xAxis: { ...axisOf(x, "middle"), nameGap: 26 },
    yAxis: axisOf(y, "end"),
    series: lines.map(({ name, points, emphasised = false }) => ({
      name,
      type: "line" as const,
      silent: true,
      showSymbol: points.length === 1,
      data: points.map(([horizontal, vertical]) => [placeOf(horizontal, x), placeOf(vertical, y)]),
      lineStyle: { width: emphasised ? 3.5 : 1.8 },
      color: palette.colourOf(name, "lines"),
    })),
  };
}

function barsOf({ axis, categories, stacked, bars }: BarPlot, palette: Palette) {
  return {
    // From top to bottom, as people read. Long names fit better beside a bar than below it.
    yAxis: { type: "category" as const, data: [...categories], inverse: true, axisTick: { show: false } },
    xAxis: { ...axisOf(axis, "middle"), nameGap: 26 },
    series: bars.map(({ name, values }) => ({
      name,
      type: "bar" as const,
      silent: true,
      ...(stacked ? { stack: "all" } : {}),
      data: values.map((value) => value ?? "-"),
      barMaxWidth: 26,
      color: palette.colourOf(name, stacked ? "stacked" : "side by side"),
    })),
  };
}

function axisOf({ title, scale = "linear" }: Axis, where: "middle" | "end") {
  const common = {
    name: title,
    nameLocation: where,
    nameTextStyle: { color: "#666", ...(where === "end" ? { align: "left" as const } : {}) },
    splitLine: { lineStyle: { color: "#e8e8e8" } },
  };
  if (scale === "log") return { ...common, type: "log" as const };
  if (scale === "linear") return { ...common, type: "value" as const };
  return {
    ...common,
    type: "value" as const,
    min: 0,
    max: ({ max }: { max: number }) => Math.ceil(max),
    interval: 1,
    axisLabel: { formatter: percentileAt },
  };
}

/** Where a value lies on its axis. Percentiles by the nines they begin with; a logarithm needs more than 0. */
function placeOf(value: number, { scale = "linear" }: Axis): number {
  if (scale === "percentile") return -Math.log10(1 - Math.min(value, 99.999_99) / 100);
  return scale === "log" ? Math.max(value, 1e-3) : value;
}

/** 0 → "0", 1 → "90 %", 2 → "99 %", 3 → "99.9 %", … */
function percentileAt(nines: number): string {
  return nines === 0 ? "0" : `${(100 * (1 - 10 ** -nines)).toFixed(Math.max(0, nines - 2))} %`;
}
