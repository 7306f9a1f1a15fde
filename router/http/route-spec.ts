/** The description of a route. The same schemas document the route and check its requests. */
import type { RouteConfig } from "@hono/zod-openapi";
import type { z } from "zod";
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
  readonly responses: Readonly<Record<number, { description: string; schema: z.ZodType | null }>>;
}

/** A secured route needs a bearer token. */
export function openApiOf<Id, Query, Body>(
  spec: RouteSpec<Id, Query, Body>,
  isSecured: boolean,
): RouteConfig {
  const { id, query, headers, body, description } = spec;
  const json = (schema: z.ZodType) => ({ "application/json": { schema } });
  const responses = Object.entries(spec.responses).map(([status, { description: text, schema }]) => [
    status,
    schema === null ? { description: text } : { description: text, content: json(schema) },
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
    responses: { ...Object.fromEntries(responses), default: PROBLEM_RESPONSE },
  };
}

const PROBLEM_RESPONSE = {
  description: "Refused; `code` says why.",
  headers: {
    "X-Request-Id": { schema: { type: "string" as const } },
    "Retry-After": { schema: { type: "integer" as const } },
  },
  content: { "application/problem+json": { schema: problemSchema } },
};
