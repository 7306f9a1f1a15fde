/**
 * An ordinary day: half of what the cluster can do at most, in the open model, which counts the whole wait of a booking that
 * had to wait for a slow answer before it. The peak is measured first, in the closed model.
 */
import { latencyPlot, throughputPlot } from "../load/plots.ts";
import { atMost, type Outcome, type PartContext } from "../part.ts";
import { bookingsOfOneEvent } from "./hot-event.ts";
import { costFigure, figuresOf, latencyFigures, otherAnswers, rush } from "./rush.ts";

const WARM_UP_SECONDS = 2;
/** Of the measurement of the peak; it is only looked at as a rate. */
const PEAK_SECONDS_MAX = 4;
const SHARE_OF_PEAK = 0.5;
const TARGET = { p99Ms: 25, p999Ms: 60 };

export async function steady(context: PartContext): Promise<Outcome> {
  const { cluster, seconds } = context;
  const peakSeconds = Math.min(seconds, PEAK_SECONDS_MAX);
  const peak = await rush(context, "steady: the peak", {
    warmUpSeconds: WARM_UP_SECONDS,
    seconds: peakSeconds,
    requests: await bookingsOfOneEvent(cluster, WARM_UP_SECONDS + peakSeconds),
  });
  const peakPerSecond = peak.classes.confirmed / peak.seconds;
  const perSecond = Math.round(peakPerSecond * SHARE_OF_PEAK);
  const half = await rush(context, "steady: half of it", {
    warmUpSeconds: WARM_UP_SECONDS,
    seconds,
    arrivals: { perSecond },
    requests: await bookingsOfOneEvent(cluster, WARM_UP_SECONDS + seconds),
  });
  const named = [
    { name: "at the peak (closed model)", report: peak },
    { name: "at half of it (open model)", report: half },
  ];
  return {
    figures: [
      ...figuresOf(peak, "201", {})
        .slice(0, 1)
        .map((figure) => ({ ...figure, name: "the peak" })),
      {
        name: "confirmed at half of it",
        value: half.classes.confirmed / half.seconds,
        unit: "/s",
        note: `${perSecond.toLocaleString("en")} a second arrived; other answers: ${otherAnswers(half, "201")}`,
      },
      ...latencyFigures(half, TARGET),
      { name: "dropped", value: half.dropped, unit: "count", target: atMost(0, half.dropped, "count") },
      costFigure(half),
    ],
    plots: [
      latencyPlot("Latency, from the moment a booking was due", named),
      throughputPlot("Bookings over time", named, ["confirmed"]),
    ],
  };
}
