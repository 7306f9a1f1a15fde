/** Turns catalogued problems into responses: `application/problem+json` (RFC 9457). */
import type { FastifyReply } from "fastify";
import { type Problem, PROBLEMS, type ProblemCode, type ProblemMembers } from "../shared/errors.ts";
import { traceOf } from "./request-trace.ts";
import { bodyOfJson, type ResponseBody } from "./response-body.ts";

/** What a client should wait before it tries again, in seconds. */
const RETRY_AFTER_SECONDS = 1;

export interface ProblemDocument extends ProblemMembers {
  readonly type: string;
  readonly title: string;
  readonly status: number;
  readonly detail: string;
  readonly code: ProblemCode;
  readonly requestId: string;
  /** Only where there is a trace. */
  readonly traceId: string | undefined;
}

export function problemDocument(
  code: ProblemCode,
  detail: string,
  requestId: string,
  members: ProblemMembers = {},
  traceId?: string,
): ProblemDocument {
  const { status, title } = PROBLEMS[code];
  return { type: `urn:onsale:problem:${code}`, title, status, detail, code, requestId, traceId, ...members };
}

/**
 * Writes the document of a problem that is told again and again: all of it is made here but the id of the request, which
 * needs no escapes (router/request-id.ts).
 */
export function problemWriter({ code, message, members }: Problem): (requestId: string) => ResponseBody {
  const { text, bytes, encoding } = bodyOfJson(problemDocument(code, message, "", members));
  const at = text.indexOf(ID_MEMBER) + ID_MEMBER.length;
  const [before, after] = [text.slice(0, at), text.slice(at)];
  return (id) => ({ text: before + id + after, bytes: bytes + id.length, encoding });
}

const ID_MEMBER = '"requestId":"';

/** The headers that a problem needs beside those of every answer. */
export function problemHeaders(code: ProblemCode): Record<string, string> {
  const headers: Record<string, string> = {
    "content-type": "application/problem+json; charset=utf-8",
    "cache-control": "no-store",
  };
  if (PROBLEMS[code].status === 503 || PROBLEMS[code].status === 429)
    headers["retry-after"] = String(RETRY_AFTER_SECONDS);
  // RFC 6750 §3: how to authenticate.
  if (code === "unauthenticated") headers["www-authenticate"] = 'Bearer realm="onsale"';
  return headers;
}

export function sendProblem(reply: FastifyReply, problem: Problem): FastifyReply {
  const { code, message, members } = problem;
  const { id, raw } = reply.request;
  return (
    reply
      .code(PROBLEMS[code].status)
      .headers(problemHeaders(code))
      // A request that the framework refuses before its hooks run has no id in its headers yet.
      .header("x-request-id", id)
      .send(JSON.stringify(problemDocument(code, message, id, members, traceOf(raw)?.traceId)))
  );
}
