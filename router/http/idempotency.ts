/** `Idempotency-Key`: a request that is sent again under its key gets the result of the first one. */
import type { IncomingMessage } from "node:http";
import { type IdempotencyKey, parseIdempotencyKey } from "../../shared/domain/ids.ts";
import { invalid } from "./input.ts";
import { Problem } from "./problems.ts";

export const KEY_HEADER = "idempotency-key";
/** Says that this response is to an earlier request. */
export const REPLAYED_HEADER = "idempotency-replayed";

/** The client's key, or undefined. Throws a Problem when it cannot be used. */
export function keyOf(incoming: IncomingMessage): IdempotencyKey | undefined {
  const header = incoming.headers[KEY_HEADER];
  if (header === undefined) return undefined;
  // Node.js joins repeated headers with a comma. Only a value with a comma may come from two headers, which are invalid.
  const isOne =
    typeof header === "string" &&
    (!header.includes(",") || incoming.headersDistinct[KEY_HEADER]?.length === 1);
  const key = isOne ? parseIdempotencyKey(header) : undefined;
  if (key !== undefined) return key;
  throw invalid("header", [{ path: KEY_HEADER, message: "must be 1 to 128 printable ASCII characters" }]);
}

/** The client needs the key for a retry, even when it sent none. */
export function unknownUnder(key: IdempotencyKey): Problem {
  const detail =
    "The shard's answer was lost. Send the request again with the Idempotency-Key of this response.";
  return new Problem("outcome_unknown", detail, {}, { [KEY_HEADER]: key });
}
