/**
 * The one place where a result becomes a response. What costs is known (docs/performance.md): a Response made of a string
 * and a plain object of headers reaches node:http as it is, where a Headers object would be copied twice.
 */
import { type Problem, PROBLEMS, type ProblemCode, type ProblemMembers } from "./problems.ts";

export type AnswerHeaders = Record<string, string>;

export const JSON_TYPE = "application/json; charset=utf-8";

/** What a client should wait before it tries again, in seconds. */
const RETRY_AFTER_SECONDS = 1;

/** A response in JSON. */
export function answerJson(
  status: number,
  value: unknown,
  requestId: string,
  more: AnswerHeaders = {},
): Response {
  return new Response(JSON.stringify(value), {
    status,
    headers: { "x-request-id": requestId, "content-type": JSON_TYPE, ...more },
  });
}

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

/** A problem document (RFC 9457). */
export function problemDocument(
  { code, message: detail, members }: Problem,
  requestId: string,
  traceId?: string,
): ProblemDocument {
  const { status, title } = PROBLEMS[code];
  return { type: `urn:onsale:problem:${code}`, title, status, detail, code, requestId, traceId, ...members };
}

/** The headers that a problem needs beside those of every answer. */
export function problemHeaders(code: ProblemCode): AnswerHeaders {
  const headers: AnswerHeaders = {
    "content-type": "application/problem+json; charset=utf-8",
    "cache-control": "no-store",
  };
  if (PROBLEMS[code].status === 503 || PROBLEMS[code].status === 429)
    headers["retry-after"] = String(RETRY_AFTER_SECONDS);
  // RFC 6750 §3: how to authenticate.
  if (code === "unauthenticated") headers["www-authenticate"] = 'Bearer realm="onsale"';
  return headers;
}

/** The response to a problem; `traceId` names the trace of the request, if it has one. */
export function answerProblem(
  problem: Problem,
  requestId: string,
  traceId?: string,
  more: AnswerHeaders = {},
): Response {
  return new Response(JSON.stringify(problemDocument(problem, requestId, traceId)), {
    status: PROBLEMS[problem.code].status,
    headers: { ...problemHeaders(problem.code), "x-request-id": requestId, ...more },
  });
}

/**
 * The same for a problem that is told again and again: all of the response is made here but the request's id, which needs
 * no escapes (request-id.ts).
 */
export function preparedProblem(problem: Problem): (requestId: string) => Response {
  const text = JSON.stringify(problemDocument(problem, ""));
  const at = text.indexOf(ID_MEMBER) + ID_MEMBER.length;
  const [before, after] = [text.slice(0, at), text.slice(at)];
  const { status } = PROBLEMS[problem.code];
  const headers = problemHeaders(problem.code);
  return (requestId) =>
    new Response(before + requestId + after, { status, headers: { ...headers, "x-request-id": requestId } });
}

const ID_MEMBER = '"requestId":"';
