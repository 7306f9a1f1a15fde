/** Reads path, query and body of a request by the schemas of its route. Throws a Problem for bad input. */
import type { IncomingMessage } from "node:http";
import type { z } from "zod";
import { BodyError, bodyOf } from "../../shared/process/http-server.ts";
import { Problem } from "./problems.ts";
import type { IdKind } from "./schemas.ts";

const BODY_MAX_BYTES = 16 * 1024;
const JSON_BODY = /^application\/json *(;|$)/i;

export function idFrom<Id>(text: string | undefined, kind: IdKind<Id> | undefined): Id {
  if (kind === undefined) return undefined as Id;
  const id = kind.parse(text ?? "");
  if (id !== undefined) return id;
  throw invalid("address", [{ path: "id", message: "must be a UUID" }]);
}

export function queryFrom<Query>({ url = "" }: IncomingMessage, schema: z.ZodType<Query> | undefined): Query {
  if (schema === undefined) return undefined as Query;
  const at = url.indexOf("?");
  const query = Object.create(null) as Record<string, string | string[]>;
  for (const [name, value] of new URLSearchParams(at < 0 ? "" : url.slice(at + 1))) {
    const before = query[name];
    query[name] = before === undefined ? value : [before, value].flat();
  }
  return valid("query", schema, query);
}

export async function bodyFrom<Body>(incoming: IncomingMessage, schema: z.ZodType<Body>): Promise<Body> {
  return valid("body", schema, jsonFrom(await textFrom(incoming), incoming));
}

/** Returns undefined for an empty body, whatever its media type: some clients send the header without a body. */
function jsonFrom(text: string, { headers }: IncomingMessage): unknown {
  if (text === "") return undefined;
  if (!JSON_BODY.test(headers["content-type"] ?? ""))
    throw new Problem("unsupported_media_type", "Send the body as application/json.");
  try {
    return JSON.parse(text) as unknown;
  } catch (error) {
    throw new Problem("invalid_request", error instanceof Error ? error.message : "The body is not JSON.");
  }
}

async function textFrom(incoming: IncomingMessage): Promise<string> {
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

/** `where` is "address", "query", "header" or "body". */
export function invalid(where: string, errors: { path: string; message: string }[]): Problem {
  return new Problem("invalid_request", `The ${where} is not valid.`, { errors });
}
