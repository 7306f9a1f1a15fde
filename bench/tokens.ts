/**
 * Tokens of buyers by the hundred thousand. jsonwebtoken signs where it is called; jose, which mints the product's own,
 * sends each token through a queue of other threads.
 */
import { createSecretKey } from "node:crypto";
import jsonwebtoken from "jsonwebtoken";

/** Buyers numbered from `first`; user n is `buyer-<n>`. */
export interface Buyers {
  readonly secret: string;
  readonly users: number;
  readonly first: number;
}

const TTL_SECONDS = 24 * 3600;

/** One token each, in order. */
export function buyerTokens({ secret, users, first }: Buyers): string[] {
  const key = createSecretKey(secret, "utf8");
  const options = { algorithm: "HS256", expiresIn: TTL_SECONDS } as const;
  return Array.from({ length: users }, (_, index) =>
    jsonwebtoken.sign({ role: "buyer", sub: `buyer-${first + index}` }, key, options),
  );
}
