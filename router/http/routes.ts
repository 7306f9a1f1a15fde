/**
 * How a route is served: its caller and input are checked, its handler runs, its problems become responses, its time is
 * measured. Every request goes this one way, so it is kept cheap (docs/performance.md). No middleware: each layer would cost
 * a promise. Headers are Node's own. A handler that answers from memory returns a Response, not a promise.
 */
import type { IncomingMessage, ServerResponse } from "node:http";
import type { OpenAPIHono } from "@hono/zod-openapi";
import type { Context } from "hono";
import type { HttpEnv } from "../../shared/process/http-server.ts";
import type { Log } from "../../shared/process/log.ts";
import type { ObserveResponse } from "../../shared/watch/metrics.ts";
import type { Span } from "../../shared/watch/tracing.ts";
import type { ClientAddress } from "../callers/client-address.ts";
import type { Caller, Role, TokenVerifier } from "../callers/tokens.ts";
import type { WriteLimits } from "../callers/write-limits.ts";
import type { RouterMetrics } from "../metrics.ts";
import { callerCheck } from "./callers.ts";
import { bodyFrom, idFrom, queryFrom } from "./input.ts";
import { Problem } from "./problems.ts";
import { requestIdOf } from "./request-id.ts";
import { namedSpan, traceOf } from "./request-trace.ts";
import { problemResponse } from "./responses.ts";
import { openApiOf, type RouteSpec } from "./route-spec.ts";

export interface RouteParts {
  readonly verifier: TokenVerifier;
  readonly writeLimits: WriteLimits;
  readonly clientAddress: ClientAddress;
  readonly metrics: RouterMetrics;
  readonly log: Log;
}

/** A request that matched a route and passed its checks. */
export interface RouteRequest<Id = undefined, Query = undefined, Body = undefined> {
  readonly incoming: IncomingMessage;
  /** For answers that are sent in parts (`streamed`). */
  readonly outgoing: ServerResponse;
  readonly requestId: string;
  /** undefined when the request is not sampled. */
  readonly span: Span | undefined;
  readonly id: Id;
  readonly query: Query;
  readonly body: Body;
}
export interface SecuredRequest<Id, Body = unknown, Query = unknown> extends RouteRequest<Id, Query, Body> {
  readonly caller: Caller;
}

type Served = Response | Promise<Response>;

/** The parameters of a path. */
const PARAMETERS = /\{(\w+)\}/g;

const INTERNAL = new Problem("internal", "This is a bug; it is logged under the request's id.");

/** Adds routes to an app. */
export class Routes {
  readonly #app: OpenAPIHono<HttpEnv>;
  readonly #parts: RouteParts;

  constructor(app: OpenAPIHono<HttpEnv>, parts: RouteParts) {
    this.#app = app;
    this.#parts = parts;
  }

  /** Adds a route that needs no token and reads no body. */
  open<Id = undefined, Query = undefined>(
    spec: Omit<RouteSpec<Id, Query, undefined>, "body">,
    handle: (request: RouteRequest<Id, Query>) => Served,
  ): void {
    const textsOf = parametersOf(spec.path);
    this.#add(spec, false, (context, incoming, requestId, span) =>
      handle({
        incoming,
        outgoing: context.env.outgoing,
        requestId,
        span,
        id: idFrom(textsOf(context), spec.id),
        query: queryFrom(incoming, spec.query),
        body: undefined,
      }),
    );
  }

  /** Adds a route for callers with one of these roles. Checks the caller before anything else. */
  secured<Id = undefined, Body = undefined, Query = undefined>(
    spec: RouteSpec<Id, Query, Body>,
    roles: readonly Role[],
    handle: (request: SecuredRequest<Id, Body, Query>) => Served,
  ): void {
    const { verifier, writeLimits, clientAddress, metrics } = this.#parts;
    const addressOf = ({ socket, headers }: IncomingMessage): string | undefined =>
      clientAddress(socket.remoteAddress, headers["x-forwarded-for"]?.toString());
    const writes = spec.method !== "get";
    const check = callerCheck(verifier, roles, metrics);
    const textsOf = parametersOf(spec.path);
    this.#add(spec, true, async (context, incoming, requestId, span) => {
      const checked = check(incoming);
      const caller = checked instanceof Promise ? await checked : checked;
      if (typeof caller === "function") return caller(requestId, traceOf(incoming)?.traceId);
      if (writes) {
        const admission = writeLimits.admit(caller, addressOf(incoming));
        const limited = admission instanceof Promise ? await admission : admission;
        if (limited !== undefined) {
          metrics.shed("rate_limited");
          const { reason, headers } = limited;
          throw new Problem("rate_limited", `Too many writes of this ${reason}; slow down.`, {}, headers);
        }
      }
      const id = idFrom(textsOf(context), spec.id);
      const query = queryFrom(incoming, spec.query);
      const body = spec.body === undefined ? (undefined as Body) : await bodyFrom(incoming, spec.body);
      const { outgoing } = context.env;
      return handle({ incoming, outgoing, requestId, span, id, query, body, caller });
    });
  }

  #add<Id, Query, Body>(
    spec: RouteSpec<Id, Query, Body>,
    isSecured: boolean,
    handle: (
      context: Context<HttpEnv>,
      incoming: IncomingMessage,
      requestId: string,
      span: Span | undefined,
    ) => Served,
  ): void {
    this.#app.openAPIRegistry.registerPath(openApiOf(spec, isSecured));
    const { metrics, log } = this.#parts;
    const method = spec.method.toUpperCase();
    const observers = new Map<number, ObserveResponse>();
    const measured = (response: Response, startedAt: number): Response => {
      const { status } = response;
      let observe = observers.get(status);
      if (observe === undefined)
        observers.set(status, (observe = metrics.http.observer(spec.path, method, status)));
      observe((performance.now() - startedAt) / 1000);
      return response;
    };
    const failed = (error: unknown, incoming: IncomingMessage, requestId: string): Response => {
      const traceId = traceOf(incoming)?.traceId;
      if (error instanceof Problem) return problemResponse(error, requestId, traceId);
      log.error({ err: error, requestId, traceId }, "a request failed");
      return problemResponse(INTERNAL, requestId, traceId);
    };
    this.#app.on(method, spec.path.replace(PARAMETERS, ":$1"), (context) => {
      const startedAt = performance.now();
      const { incoming } = context.env;
      const requestId = requestIdOf(incoming);
      const span = namedSpan(incoming, spec.path, requestId);
      try {
        const served = handle(context, incoming, requestId, span);
        if (!(served instanceof Promise)) return measured(served, startedAt);
        return served.then(
          (response) => measured(response, startedAt),
          (error: unknown) => measured(failed(error, incoming, requestId), startedAt),
        );
      } catch (error) {
        return measured(failed(error, incoming, requestId), startedAt);
      }
    });
  }
}

function parametersOf(path: string): (context: Context<HttpEnv>) => readonly string[] {
  const names = [...path.matchAll(PARAMETERS)].map(([, name = ""]) => name);
  return ({ req }) => names.map((name) => req.param(name) ?? "");
}
