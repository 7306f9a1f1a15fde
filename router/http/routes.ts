/**
 * A route: documented and checked by the same schemas, timed, and its problems turned into responses. Every route goes this
 * one way, so it is kept cheap (docs/performance.md): no middleware, which would be a promise for each request and layer;
 * headers are Node's own; and what memory can answer is answered in the same turn of the event loop.
 */
import type { IncomingMessage } from "node:http";
import type { OpenAPIHono, RouteConfig } from "@hono/zod-openapi";
import type { Context } from "hono";
import type { z } from "zod";
import { Problem } from "./problems.ts";
import { BodyError, bodyOf, type HttpEnv } from "../../shared/process/http-server.ts";
import type { AnswerObserver } from "../../shared/watch/metrics.ts";
import type { Caller, Role } from "../callers/tokens.ts";
import type { Span } from "../../shared/watch/tracing.ts";
import type { RouterParts } from "./parts.ts";
import { answerProblem } from "./answers.ts";
import { callerOf } from "./callers.ts";
import { requestIdOf } from "./request-id.ts";
import { namedSpan, traceOf } from "./request-trace.ts";
import { type IdKind, problemSchema } from "./schemas.ts";
import type { Limited } from "../callers/write-limits.ts";

export const BODY_MAX_BYTES = 16 * 1024;

/** A request for which a route was found. */
export interface Asked {
  readonly incoming: IncomingMessage;
  /** For `X-Request-Id`. */
  readonly requestId: string;
  /** Of the request, when it is sampled. */
  readonly span: Span | undefined;
}
type With<Id, Query, Body> = Asked & { readonly id: Id; readonly query: Query; readonly body: Body };

interface RouteSpec<Id, Query, Body> {
  readonly method: "get" | "post" | "patch" | "delete";
  /** As OpenAPI writes it: `/v1/events/{id}`. */
  readonly path: string;
  readonly summary: string;
  readonly description?: string;
  readonly tag: "events" | "bookings";
  /** What the `{id}` of the path is the id of. */
  readonly id?: IdKind<Id>;
  readonly query?: z.ZodType<Query>;
  /** Of the body; one that takes `undefined` takes an empty body. */
  readonly body?: z.ZodType<Body>;
  /** For the document only: the handler looks at them. */
  readonly headers?: z.ZodObject;
  /** By status; null where the answer has no body. Refusals are the same for all routes. */
  readonly answers: Readonly<Record<number, { description: string; schema: z.ZodType | null }>>;
}

type Answer = Response | Promise<Response>;

/** Adds routes to an app. */
export class Routes {
  readonly #app: OpenAPIHono<HttpEnv>;
  readonly #parts: RouterParts;

  constructor(app: OpenAPIHono<HttpEnv>, parts: RouterParts) {
    this.#app = app;
    this.#parts = parts;
  }

  /** A route that anybody may ask, without a token and without a body. */
  open<Id = undefined, Query = undefined>(
    spec: Omit<RouteSpec<Id, Query, undefined>, "body">,
    handle: (asked: With<Id, Query, undefined>) => Answer,
  ): void {
    this.#add(spec, undefined, (context, incoming, requestId, span) =>
      handle({
        incoming,
        requestId,
        span,
        id: idOf(spec, context),
        query: queryOf(spec, incoming),
        body: undefined,
      }),
    );
  }

  /** A route for callers with one of these roles, who are known before anything else is looked at. */
  secured<Id = undefined, Body = undefined>(
    spec: Omit<RouteSpec<Id, undefined, Body>, "query">,
    roles: readonly Role[],
    handle: (asked: With<Id, undefined, Body> & { readonly caller: Caller }) => Answer,
  ): void {
    const { verifier, writeLimits, clientAddress } = this.#parts;
    const addressOf = ({ socket, headers }: IncomingMessage): string | undefined =>
      clientAddress(socket.remoteAddress, headers["x-forwarded-for"]?.toString());
    const writes = spec.method !== "get";
    this.#add(spec, roles, async (context, incoming, requestId, span) => {
      const checked = callerOf(incoming, verifier, roles);
      const caller = checked instanceof Promise ? await checked : checked;
      if (caller instanceof Problem) throw caller;
      if (writes) {
        const admission = writeLimits.admit(caller, addressOf(incoming));
        const limited = admission instanceof Promise ? await admission : admission;
        if (limited !== undefined) return this.#refuse(limited, incoming, requestId);
      }
      const id = idOf(spec, context);
      const body =
        spec.body === undefined ? (undefined as Body) : valid("body", spec.body, await jsonOf(incoming));
      return handle({ incoming, requestId, span, id, query: undefined, body, caller });
    });
  }

  #refuse({ reason, headers }: Limited, incoming: IncomingMessage, requestId: string): Response {
    this.#parts.metrics.rateLimited();
    const problem = new Problem("rate_limited", `Too many writes of this ${reason}; slow down.`);
    return answerProblem(problem, requestId, traceOf(incoming)?.traceId, headers);
  }

  #add<Id, Query, Body>(
    spec: RouteSpec<Id, Query, Body>,
    roles: readonly Role[] | undefined,
    handle: (
      context: Context<HttpEnv>,
      incoming: IncomingMessage,
      requestId: string,
      span: Span | undefined,
    ) => Answer,
  ): void {
    this.#app.openAPIRegistry.registerPath(documented(spec, roles));
    const { metrics, log } = this.#parts;
    const method = spec.method.toUpperCase();
    const observers = new Map<number, AnswerObserver>();
    const answered = (response: Response, started: number): Response => {
      const { status } = response;
      let observer = observers.get(status);
      if (observer === undefined)
        observers.set(status, (observer = metrics.http.observer(spec.path, method, status)));
      observer((performance.now() - started) / 1000);
      return response;
    };
    const failed = (error: unknown, incoming: IncomingMessage, requestId: string): Response => {
      const traceId = traceOf(incoming)?.traceId;
      if (error instanceof Problem) return answerProblem(error, requestId, traceId);
      log.error({ err: error, requestId, traceId }, "a request failed");
      return answerProblem(INTERNAL, requestId, traceId);
    };
    this.#app.on(method, spec.path.replace(/\{(\w+)\}/g, ":$1"), (context) => {
      const started = performance.now();
      const { incoming } = context.env;
      const requestId = requestIdOf(incoming);
      const span = namedSpan(incoming, spec.path, requestId);
      try {
        // RFC 9112 §3.2: HTTP/1.1 requires it.
        if (incoming.headers.host === undefined && incoming.httpVersion === "1.1") throw NO_HOST;
        const response = handle(context, incoming, requestId, span);
        if (!(response instanceof Promise)) return answered(response, started);
        return response.then(
          (given) => answered(given, started),
          (error: unknown) => answered(failed(error, incoming, requestId), started),
        );
      } catch (error) {
        return answered(failed(error, incoming, requestId), started);
      }
    });
  }
}

const NO_HOST = new Problem("invalid_request", "The Host header is missing.");
const INTERNAL = new Problem("internal", "This is a bug; it is logged under the request's id.");

function documented<Id, Query, Body>(
  { method, path, summary, description, tag, id, query, headers, body, answers }: RouteSpec<Id, Query, Body>,
  roles: readonly Role[] | undefined,
): RouteConfig {
  const json = (schema: z.ZodType) => ({ "application/json": { schema } });
  return {
    method,
    path,
    summary,
    tags: [tag],
    ...(description === undefined ? {} : { description }),
    ...(roles === undefined ? {} : { security: [{ bearer: [] }] }),
    request: {
      ...(id === undefined ? {} : { params: id.params }),
      ...(query === undefined ? {} : { query: query as unknown as z.ZodObject }),
      ...(headers === undefined ? {} : { headers }),
      ...(body === undefined
        ? {}
        : { body: { content: json(body), required: !body.safeParse(undefined).success } }),
    },
    responses: {
      ...Object.fromEntries(
        Object.entries(answers).map(([status, { description: says, schema }]) => [
          status,
          schema === null ? { description: says } : { description: says, content: json(schema) },
        ]),
      ),
      default: REFUSED,
    },
  };
}

/** Refusals have a media type of their own (RFC 9457 §3). */
const REFUSED = {
  description: "Refused; `code` says why.",
  headers: {
    "X-Request-Id": { schema: { type: "string" as const } },
    "Retry-After": { schema: { type: "integer" as const } },
  },
  content: { "application/problem+json": { schema: problemSchema } },
};

function idOf<Id>({ id: kind }: { readonly id?: IdKind<Id> }, context: Context<HttpEnv>): Id {
  if (kind === undefined) return undefined as Id;
  const id = kind.parse(context.req.param("id") ?? "");
  if (id !== undefined) return id;
  throw invalid("address", [{ path: "id", message: "must be a UUID" }]);
}

function queryOf<Query>(
  { query }: { readonly query?: z.ZodType<Query> },
  { url = "" }: IncomingMessage,
): Query {
  if (query === undefined) return undefined as Query;
  const at = url.indexOf("?");
  const given = Object.create(null) as Record<string, string | string[]>;
  for (const [name, value] of new URLSearchParams(at < 0 ? "" : url.slice(at + 1))) {
    const before = given[name];
    given[name] = before === undefined ? value : [before, value].flat();
  }
  return valid("query", query, given);
}

const JSON_BODY = /^application\/json *(;|$)/i;

/** The value of the body; undefined when it is empty, whatever its media type: clients send the header anyway. */
async function jsonOf(incoming: IncomingMessage): Promise<unknown> {
  const text = await textOf(incoming);
  if (text === "") return undefined;
  if (!JSON_BODY.test(incoming.headers["content-type"] ?? ""))
    throw new Problem("unsupported_media_type", "Send the body as application/json.");
  try {
    return JSON.parse(text) as unknown;
  } catch (error) {
    throw new Problem("invalid_request", error instanceof Error ? error.message : "The body is not JSON.");
  }
}

async function textOf(incoming: IncomingMessage): Promise<string> {
  try {
    return await bodyOf(incoming, BODY_MAX_BYTES);
  } catch (error) {
    if (!(error instanceof BodyError)) throw error;
    throw error.kind === "too_large"
      ? new Problem("body_too_large", `A body has at most ${BODY_MAX_BYTES} bytes.`)
      : new Problem("invalid_request", "The body did not arrive whole.");
  }
}

function valid<T>(where: string, schema: z.ZodType<T>, value: unknown): T {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  throw invalid(
    where,
    result.error.issues.map(({ path, message }) => ({ path: path.join(".") || where, message })),
  );
}

/** A request with something wrong in its address, query, header or body. */
export function invalid(where: string, errors: readonly { path: string; message: string }[]): Problem {
  return new Problem("invalid_request", `The ${where} is not valid.`, { errors });
}
