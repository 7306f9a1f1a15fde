/** Reads path, query and body of a request by the schemas of its route. Throws a Problem for bad input. */
import type { IncomingMessage } from "node:http";
import type { z } from "zod";
import { BodyError, bodyOf } from "../../shared/process/connections.ts";
import { jsonFrom } from "./json.ts";
import { excerptOf, Problem } from "./problems.ts";
import type { IdKind } from "./schemas.ts";

const BODY_MAX_BYTES = 16 * 1024;
const JSON_BODY = /^application\/json[\t ]*(?:;|$)/i;
const CHARSET = /;[\t ]*charset=([^;]*)/gi;
const UTF_8 = /^(?:utf-?8|"utf-?8")[\t ]*$/i;

export function idFrom<Id>(texts: readonly string[], kind: IdKind<Id> | undefined): Id {
  if (kind === undefined) return undefined as Id;
  const id = kind.parse(...texts);
  if (id !== undefined) return id;
  throw invalid("address", [{ path: "id", message: "must be a UUID" }]);
}

export function queryFrom<Query>({ url = "" }: IncomingMessage, schema: z.ZodType<Query> | undefined): Query {
  if (schema === undefined) return undefined as Query;
  const at = url.indexOf("?");
  const query = Object.create(null) as Record<string, string | string[]>;
  for (const [name, value] of new URLSearchParams(at < 0 ? "" : url.slice(at + 1))) {
    const before = query[name];
    if (before === undefined) query[name] = value;
    else if (typeof before === "string") query[name] = [before, value];
    else before.push(value);
  }
  return valid("query", schema, query);
}

export async function bodyFrom<Body>(incoming: IncomingMessage, schema: z.ZodType<Body>): Promise<Body> {
  const { "content-length": length, expect } = incoming.headers;
  // Before it is read: who waits for leave to send a body must not send one in vain.
  const coding = problemOfCoding(incoming);
  if (coding !== undefined && (Number(length ?? 0) > 0 || expect !== undefined)) throw coding;
  const text = await textFrom(incoming);
  // Some clients send a media type without a body.
  if (text === "") return valid("body", schema, undefined);
  if (coding !== undefined) throw coding;
  return valid("body", schema, jsonFrom(text));
}

async function textFrom(incoming: IncomingMessage): Promise<string> {
  try {
    return await bodyOf(incoming, BODY_MAX_BYTES);
  } catch (error) {
    if (!(error instanceof BodyError)) throw error;
    switch (error.kind) {
      case "too_large":
        throw new Problem("body_too_large", `A body has at most ${BODY_MAX_BYTES} bytes.`);
      case "incomplete":
        throw new Problem("invalid_request", "The body did not arrive whole.");
      case "not_utf8":
        throw problemOfCoding(incoming) ?? new Problem("invalid_request", "The body is not valid UTF-8.");
    }
  }
}

/** JSON is UTF-8 (RFC 8259 §8.1). What is compressed can be small on the way and endless here, so nothing is. */
function problemOfCoding({ headers }: IncomingMessage): Problem | undefined {
  const { "content-type": type = "", "content-encoding": encoding = "" } = headers;
  const isTaken =
    JSON_BODY.test(type) && [...type.matchAll(CHARSET)].every(([, charset = ""]) => UTF_8.test(charset));
  if (isTaken && (encoding === "" || encoding.toLowerCase() === "identity")) return undefined;
  const detail = isTaken
    ? "Send the body without a Content-Encoding."
    : "Send the body as application/json in UTF-8.";
  return new Problem("unsupported_media_type", detail);
}

function valid<T>(where: string, schema: z.ZodType<T>, value: unknown): T {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  throw invalid(
    where,
    // The schemas are flat, so a text of the client is in the message of unknown members only.
    result.error.issues.map(({ path, message }) => ({
      path: path.join(".") || where,
      message: excerptOf(message),
    })),
  );
}

/** `where` is "address", "query", "header" or "body". */
export function invalid(where: string, errors: { path: string; message: string }[]): Problem {
  return new Problem("invalid_request", `The ${where} is not valid.`, { errors });
}

/** Whether the client names this type among those that it accepts (RFC 9110 §12.5.1); what every client accepts does not count. */
export function accepts({ headers: { accept = "" } }: IncomingMessage, type: string): boolean {
  return accept.split(",").some((range) => range.split(";", 1)[0]?.trim().toLowerCase() === type);
}
