/** Who is asking, and may they? Runs before a body is read, so that strangers cost nothing. */
import type { FastifyReply, FastifyRequest } from "fastify";
import { Problem } from "../shared/errors.ts";
import type { Caller, Role, TokenVerifier } from "../shared/tokens.ts";

declare module "fastify" {
  interface FastifyRequest {
    /** Set on every route that requires a role. */
    caller: Caller;
  }
}

const BEARER = /^Bearer +([A-Za-z0-9\-._~+/]+=*)$/i;

/** The token of an Authorization header (RFC 6750 §2.1), or undefined when it carries none. */
export function bearerTokenOf(authorization: string | undefined): string | undefined {
  return authorization === undefined ? undefined : BEARER.exec(authorization)?.[1];
}

/** An onRequest hook that lets only these roles in and puts the caller on the request. */
export function requireRole(verifier: TokenVerifier, ...roles: readonly Role[]) {
  return (request: FastifyRequest, _reply: FastifyReply, done: (error?: Error) => void): void => {
    const admit = (caller: Caller | undefined): void => {
      if (caller === undefined)
        return done(new Problem("unauthenticated", "The token is not valid or has expired."));
      if (!roles.includes(caller.role)) {
        return done(
          new Problem(
            "forbidden",
            `This needs the role ${roles.join(" or ")}; the token's is ${caller.role}.`,
          ),
        );
      }
      request.caller = caller;
      return done();
    };
    const token = bearerTokenOf(request.headers.authorization);
    if (token === undefined)
      return done(new Problem("unauthenticated", "Send an Authorization: Bearer header."));
    const caller = verifier.verify(token);
    if (!(caller instanceof Promise)) return admit(caller);
    caller.then(admit, done);
    return undefined;
  };
}
