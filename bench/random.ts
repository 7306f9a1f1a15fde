/** Random choices that come out the same in every run: two versions are measured with the same requests. */

/** Numbers from 0 up to 1, a fixed sequence for each seed (mulberry32). */
export function seededRandom(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** Picks 0 … weights.length - 1, each with a probability that goes as its weight. */
export function weightedChoice(weights: readonly number[], random: () => number): () => number {
  const upTo = new Float64Array(weights.length);
  let sum = 0;
  for (const [index, weight] of weights.entries()) upTo[index] = sum += weight;
  return () => {
    const wanted = random() * sum;
    let [low, high] = [0, weights.length - 1];
    while (low < high) {
      const middle = (low + high) >> 1;
      if ((upTo[middle] ?? 0) > wanted) high = middle;
      else low = middle + 1;
    }
    return low;
  };
}

/** The weights of Zipf's law: the i-th most popular is asked for 1 / i^exponent as often as the first. */
export function zipfWeights(count: number, exponent: number): number[] {
  return Array.from({ length: count }, (_, index) => (index + 1) ** -exponent);
}
