/** Checks who the caller is and whether the role may use the route. This comes before the body, so a stranger costs little. */
import type { IncomingMessage } from "node:http";
import { type Caller, type Role, ROLES, type TokenFault, type TokenVerifier } from "../callers/tokens.ts";
import type { RouterMetrics } from "../metrics.ts";
import { Problem } from "./problems.ts";
import { CHALLENGE, preparedProblem, type PreparedProblem } from "./responses.ts";

/** Node.js takes spaces from the end. */
const SENT = /^Bearer /i;
/** RFC 6750 §2.1. */
const BEARER = /^Bearer +([A-Za-z0-9\-._~+/]+=*)$/i;

/** What a client is told of a token. Whoever makes tokens learns what is wrong with them; a forger learns nothing new. */
const DETAILS: Readonly<Record<TokenFault, string>> = {
  malformed: "The token is no JWT: it must be three parts in base64url, and its claims a JSON object.",
  header:
    "The token's header is not accepted: it is no JSON, names another algorithm or key than is taken here, or demands an extension.",
  signature: "The token's signature is not valid.",
  key_set: "The token cannot be verified: the key set has no such key, or it cannot be had now.",
  expired: "The token has expired.",
  not_yet_valid: "The token is not valid yet: its nbf or iat is no time or lies ahead.",
  claims: "The token's claims are not accepted: exp must lie within ten years; iss, aud and role must fit.",
  sub: "The token's sub is not valid: it must be 1 to 255 characters that can all be seen, with no space at its ends.",
};

const NO_TOKEN = preparedProblem(new Problem("unauthenticated", "Send an Authorization: Bearer header."));
/** RFC 6750 §3.1. */
const BAD_TOKEN = Object.fromEntries(
  Object.entries(DETAILS).map(([fault, detail]) => [
    fault,
    preparedProblem(
      new Problem(
        "unauthenticated",
        detail,
        {},
        { "www-authenticate": `${CHALLENGE}, error="invalid_token"` },
      ),
    ),
  ]),
) as Readonly<Record<TokenFault, PreparedProblem>>;

type Checked = Caller | PreparedProblem;

/**
 * Makes the check of a route for these roles. It gives the caller, or the response that refuses the request; a promise only where
 * the verifier gives one. Responses are prepared, so that a flood of forged tokens costs less than the same of bookings.
 */
export function callerCheck(
  verifier: TokenVerifier,
  roles: readonly Role[],
  { unauthenticated }: Pick<RouterMetrics, "unauthenticated">,
): (incoming: IncomingMessage) => Checked | Promise<Checked> {
  const forbidden = new Map(
    ROLES.filter((role) => !roles.includes(role)).map((role) => {
      const detail = `This needs the role ${roles.join(" or ")}; the token's is ${role}.`;
      return [role, preparedProblem(new Problem("forbidden", detail))];
    }),
  );
  const judged = (verdict: Caller | TokenFault): Checked => {
    if (typeof verdict === "object") return forbidden.get(verdict.role) ?? verdict;
    unauthenticated(verdict);
    return BAD_TOKEN[verdict];
  };
  return ({ headers: { authorization } }) => {
    if (authorization === undefined || !SENT.test(authorization)) {
      unauthenticated("missing");
      return NO_TOKEN;
    }
    const token = BEARER.exec(authorization)?.[1];
    const verdict = token === undefined ? "malformed" : verifier.verify(token);
    return verdict instanceof Promise ? verdict.then(judged) : judged(verdict);
  };
}
