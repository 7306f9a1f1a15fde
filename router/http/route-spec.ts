/** The description of a route. The same schemas document the route and check its requests. */
import type { RouteConfig } from "@hono/zod-openapi";
import type { z } from "zod";
import { type ProblemCode, PROBLEMS } from "./problems.ts";
import { type IdKind, problemSchema } from "./schemas.ts";

export interface RouteSpec<Id, Query, Body> {
  readonly method: "get" | "post" | "patch" | "delete";
  /** In OpenAPI's form: `/v1/events/{id}`. */
  readonly path: string;
  readonly summary: string;
  readonly description?: string;
  readonly tag: "events" | "bookings";
  readonly id?: IdKind<Id>;
  readonly query?: z.ZodType<Query>;
  /** A schema that takes `undefined` makes the body optional. */
  readonly body?: z.ZodType<Body>;
  /** For the document only; the handler checks them. */
  readonly headers?: z.ZodObject;
  /** The successful responses by status; `schema` is null when the response has no body. */
  readonly responses: Readonly<Record<number, SuccessSpec>>;
  /** What only this route refuses; what all routes of its kind refuse is added. */
  readonly refusals: readonly ProblemCode[];
}

/** OpenAPI 3.1 has no schema for what comes in parts. */
export type StreamType = "text/event-stream" | "text/csv";

interface SuccessSpec {
  readonly description: string;
  readonly schema: z.ZodType | null;
  /** The other form in which the value comes, to those who accept it. */
  readonly stream?: StreamType;
  /** Beside `X-Request-Id`. */
  readonly headers?: readonly (keyof typeof HEADERS)[];
}

const HEADERS = {
  accept: { schema: { type: "string" as const }, example: "application/json" },
  "accept-encoding": { schema: { type: "string" as const }, example: "identity" },
  "cache-control": { schema: { type: "string" as const }, example: "public, max-age=1" },
  "cache-status": { schema: { type: "string" as const }, example: "onsale; hit; detail=memory" },
  etag: { schema: { type: "string" as const, pattern: '^"[0-9]+"$' }, example: '"7"' },
  location: {
    schema: { type: "string" as const, format: "uri-reference" },
    example: "/v1/events/01a20409-0c00-7c2b-af63-0abca586c6cb",
  },
  "onsale-position": {
    schema: { type: "string" as const },
    example: "shard-0.4711.01a20409-0c00-7c2b-af63-0abca586c6cb",
  },
  "preference-applied": { schema: { type: "string" as const }, example: "respond-async" },
  "retry-after": { schema: { type: "integer" as const, minimum: 1 }, example: 1 },
  "www-authenticate": {
    schema: { type: "string" as const },
    example: 'Bearer realm="onsale", error="invalid_token"',
  },
  "x-request-id": {
    schema: { type: "string" as const, pattern: "^[A-Za-z0-9._-]{1,64}$" },
    example: "828f3e16-5b48-4",
  },
};

/** A secured route needs a bearer token. */
export function openApiOf<Id, Query, Body>(
  spec: RouteSpec<Id, Query, Body>,
  isSecured: boolean,
): RouteConfig {
  const { id, query, headers, body, description } = spec;
  const json = (schema: z.ZodType) => ({ "application/json": { schema } });
  const responses = Object.entries(spec.responses).map(([status, response]) => [
    status,
    {
      description: response.description,
      headers: headersOf(["x-request-id", ...(response.headers ?? [])]),
      ...(response.schema && {
        content: {
          ...json(response.schema),
          ...(response.stream && { [response.stream]: { schema: { type: "string" as const } } }),
        },
      }),
    },
  ]);
  return {
    method: spec.method,
    path: spec.path,
    summary: spec.summary,
    tags: [spec.tag],
    ...(description && { description }),
    ...(isSecured && { security: [{ bearer: [] }] }),
    request: {
      ...(id && { params: id.params }),
      ...(query && { query: query as unknown as z.ZodObject }),
      ...(headers && { headers }),
      ...(body && { body: { content: json(body), required: !body.safeParse(undefined).success } }),
    },
    responses: {
      ...refusalsOf(spec, isSecured),
      ...Object.fromEntries(responses),
      default: problem("Refused; `code` says why."),
    },
  };
}

/** One response per status, which names its codes. */
function refusalsOf<Id, Query, Body>(
  spec: RouteSpec<Id, Query, Body>,
  isSecured: boolean,
): RouteConfig["responses"] {
  const codes: ProblemCode[] = [
    "invalid_request",
    "overloaded",
    "shard_unavailable",
    "internal",
    ...spec.refusals,
  ];
  if (isSecured) codes.push("unauthenticated", "forbidden");
  if (isSecured && spec.method !== "get") codes.push("rate_limited");
  if (spec.body) codes.push("body_too_large", "unsupported_media_type");
  const byStatus = Map.groupBy(new Set(codes), (code) => PROBLEMS[code].status);
  return Object.fromEntries(
    [...byStatus].map(([status, all]) => [
      String(status),
      problem(all.map((code) => `\`${code}\`: ${PROBLEMS[code].title}`).join(" "), REFUSAL_HEADERS[status]),
    ]),
  );
}

/** Beside `X-Request-Id`. */
const REFUSAL_HEADERS: Readonly<Record<number, readonly (keyof typeof HEADERS)[]>> = {
  401: ["www-authenticate"],
  415: ["accept", "accept-encoding"],
  429: ["retry-after"],
  503: ["retry-after"],
};

function problem(description: string, headers: readonly (keyof typeof HEADERS)[] = []) {
  return {
    description,
    headers: headersOf(["x-request-id", ...headers]),
    content: { "application/problem+json": { schema: problemSchema } },
  };
}

function headersOf(names: readonly (keyof typeof HEADERS)[]) {
  return Object.fromEntries(names.map((name) => [name, HEADERS[name]]));
}
