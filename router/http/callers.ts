/** Who is asking, and may they? Asked before a body is read, so that strangers cost little. */
import type { IncomingMessage } from "node:http";
import { Problem } from "./problems.ts";
import type { Caller, Role, TokenVerifier } from "../callers/tokens.ts";

const BEARER = /^Bearer +([A-Za-z0-9\-._~+/]+=*)$/i;

const NO_TOKEN = new Problem("unauthenticated", "Send an Authorization: Bearer header.");
const BAD_TOKEN = new Problem("unauthenticated", "The token is not valid or has expired.");

/** The token of an Authorization header (RFC 6750 §2.1), or undefined when it carries none. */
export function bearerTokenOf(authorization: string | undefined): string | undefined {
  return authorization === undefined ? undefined : BEARER.exec(authorization)?.[1];
}

/** The caller, or why there is none or may not be one. A promise only where the verifier has to ask somebody. */
export function callerOf(
  { headers }: IncomingMessage,
  verifier: TokenVerifier,
  roles: readonly Role[],
): Caller | Problem | Promise<Caller | Problem> {
  const token = bearerTokenOf(headers.authorization);
  if (token === undefined) return NO_TOKEN;
  const verified = verifier.verify(token);
  return verified instanceof Promise
    ? verified.then((caller) => admitted(caller, roles))
    : admitted(verified, roles);
}

function admitted(caller: Caller | undefined, roles: readonly Role[]): Caller | Problem {
  if (caller === undefined) return BAD_TOKEN;
  if (roles.includes(caller.role)) return caller;
  return new Problem(
    "forbidden",
    `This needs the role ${roles.join(" or ")}; the token's is ${caller.role}.`,
  );
}
