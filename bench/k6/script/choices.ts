/** Random choices that depend on the number of an iteration alone: every run asks for the same, whichever VU does it. */
import { seededRandom, weightedChoice } from "../../random.ts";

/** Numbers from 0 up to 1; another sequence for each iteration. */
export function randomOf(iteration: number): () => number {
  return seededRandom(iteration);
}

/**
 * Picks 0 … count - 1 by Zipf's law with exponent 1: i with a probability that goes as 1 / (i + 1). Without a table, which
 * every VU would have to build for itself. `count ** random()` is nearly it, with ln(1 + 1 / rank) in
 * place of 1 / rank; what is too much of the later ranks is thrown back.
 */
export function zipf(count: number, random: () => number): number {
  for (;;) {
    const rank = Math.floor((count + 1) ** random());
    if (random() * rank * Math.log1p(1 / rank) < Math.LN2) return rank - 1;
  }
}

/** Picks one of `shares`, each with a probability that goes as its number. */
export function kindOf<Kind extends string>(
  shares: Readonly<Record<Kind, number>>,
  random: () => number,
): Kind {
  const kinds = Object.keys(shares) as Kind[];
  const kind = kinds[weightedChoice(Object.values<number>(shares), random)()];
  if (kind === undefined) throw new Error("there is nothing to choose from");
  return kind;
}
