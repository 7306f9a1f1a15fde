/** Builds the requests of a plan one after the other, as bytes. */
import { seededRandom, weightedChoice, zipfWeights } from "../random.ts";
import { type Buyers, buyerTokens } from "../tokens.ts";
import type { Target } from "./connection.ts";
import type { RequestMix, RequestPlan } from "./plan.ts";

export interface Requests {
  /** The next one, complete. */
  next(): string;
  /** How many there are before they repeat. */
  readonly total: number;
}

const SEED = 20_251_125;
const ZIPF_EXPONENT = 1;

/** Mints all tokens first, which takes a while. Throws RangeError for a plan without requests. */
export function requestsOf(plan: RequestPlan | RequestMix, target: Target): Requests {
  if (!("kinds" in plan)) return requestsOfOneKind(plan, target);
  const kinds = plan.kinds.map(({ requests }) => requestsOfOneKind(requests, target));
  const choose = weightedChoice(
    plan.kinds.map(({ share }) => share),
    seededRandom(SEED),
  );
  return {
    next: () => kinds[choose()]?.next() ?? "",
    total: kinds.reduce((sum, { total }) => sum + total, 0),
  };
}

function requestsOfOneKind(plan: RequestPlan, { host, port }: Target): Requests {
  const { method, paths, buyers, body } = plan;
  if (paths.length === 0) throw new RangeError("a load needs a path to ask for");
  const heads = paths.map((path) => `${method} ${path} HTTP/1.1\r\n`);
  const lines = buyers === undefined ? [""] : authorizationsOf(buyers);
  const tail =
    `host: ${host}:${port}\r\n` +
    (body === undefined
      ? "\r\n"
      : `content-type: application/json\r\ncontent-length: ${Buffer.byteLength(body)}\r\n\r\n${body}`);
  const [pathOf, userOf] = orderOf(plan, heads.length, lines.length);
  let number = plan.first - 1;
  return {
    next() {
      number += 1;
      return `${heads[pathOf(number)] ?? ""}${lines[userOf(number)] ?? ""}${tail}`;
    },
    total: heads.length * lines.length,
  };
}

/** The last tokens by user, because consecutive loads often have the same users. */
let minted: { readonly key: string; readonly lines: readonly string[] } | undefined;

function authorizationsOf(buyers: Buyers): readonly string[] {
  const key = JSON.stringify(buyers);
  if (minted?.key !== key)
    minted = { key, lines: buyerTokens(buyers).map((token) => `authorization: Bearer ${token}\r\n`) };
  return minted.lines;
}

type Index = (number: number) => number;

/** The path and the user of request n. */
function orderOf({ order = "in turns" }: RequestPlan, paths: number, users: number): [Index, Index] {
  switch (order) {
    case "in turns":
      return [(number) => Math.floor(number / users) % paths, (number) => number % users];
    case "evenly":
      // Shifts by one user in every round. Otherwise the same few users would always meet the same path.
      return [
        (number) => number % paths,
        (number) => ((number % paths) + Math.floor(number / paths)) % users,
      ];
    case "zipf": {
      const choose = weightedChoice(zipfWeights(paths, ZIPF_EXPONENT), seededRandom(SEED));
      return [choose, (number) => number % users];
    }
  }
}
