/** Tokens of buyers by the hundred thousand, signed where they are made: jose sends each one through a queue of other threads. */
import { SharedSecret } from "../router/callers/hs256.ts";

/** Buyers numbered from `first`; user n is `buyer-<n>`. */
export interface Buyers {
  readonly secret: string;
  readonly users: number;
  readonly first: number;
}

const TTL_SECONDS = 24 * 3600;

/** One token each, in order. */
export function buyerTokens({ secret, users, first }: Buyers): string[] {
  const key = new SharedSecret(secret);
  const iat = Math.floor(Date.now() / 1000);
  const header = encoded({ alg: "HS256", typ: "JWT" });
  return Array.from({ length: users }, (_, index) => {
    const claims = { role: "buyer", sub: `buyer-${first + index}`, iat, exp: iat + TTL_SECONDS };
    const text = `${header}.${encoded(claims)}`;
    return `${text}.${key.sign(text)}`;
  });
}

function encoded(part: object): string {
  return Buffer.from(JSON.stringify(part)).toString("base64url");
}
