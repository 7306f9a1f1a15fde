/** Checks who the caller is and whether the role may use the route. This comes before the body, so a stranger costs little. */
import type { IncomingMessage } from "node:http";
import type { Caller, Role, TokenVerifier, Verdict } from "../callers/tokens.ts";
import { Problem } from "./problems.ts";

/** RFC 6750 §2.1. */
const BEARER = /^Bearer +([A-Za-z0-9\-._~+/]+=*)$/i;

const NO_TOKEN = new Problem("unauthenticated", "Send an Authorization: Bearer header.");
const BAD_TOKEN = new Problem("unauthenticated", "The token is not valid or has expired.");
const BAD_SUB = new Problem(
  "unauthenticated",
  "The token's sub is not valid: it must be 1 to 255 characters that can all be seen, with no space at its ends.",
);

/** The caller, or the problem that refuses the request. A promise only where the verifier gives one. */
export function callerOf(
  { headers: { authorization } }: IncomingMessage,
  verifier: TokenVerifier,
  roles: readonly Role[],
): Caller | Problem | Promise<Caller | Problem> {
  const token = authorization === undefined ? undefined : BEARER.exec(authorization)?.[1];
  if (token === undefined) return NO_TOKEN;
  const verified = verifier.verify(token);
  return verified instanceof Promise
    ? verified.then((caller) => admitted(caller, roles))
    : admitted(verified, roles);
}

function admitted(caller: Verdict, roles: readonly Role[]): Caller | Problem {
  if (caller === undefined) return BAD_TOKEN;
  if (caller === "bad_sub") return BAD_SUB;
  if (roles.includes(caller.role)) return caller;
  return new Problem(
    "forbidden",
    `This needs the role ${roles.join(" or ")}; the token's is ${caller.role}.`,
  );
}
