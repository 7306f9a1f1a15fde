/**
 * The one place where a result becomes a response. A Response made of a string and a plain object of headers reaches
 * node:http without a copy; a Headers object would be copied twice (docs/performance.md).
 */
import { type Problem, PROBLEMS, type ProblemCode } from "./problems.ts";
import type { ProblemDocument } from "./schemas.ts";

export type ResponseHeaders = Record<string, string>;

export const JSON_TYPE = "application/json; charset=utf-8";

export const RETRY_AFTER_SECONDS = 1;
/** How to authenticate (RFC 6750 §3). */
export const CHALLENGE = 'Bearer realm="onsale"';

export function jsonResponse(
  status: number,
  value: unknown,
  requestId: string,
  headers: ResponseHeaders = {},
): Response {
  return jsonTextResponse(status, JSON.stringify(value), requestId, headers);
}

export function jsonTextResponse(
  status: number,
  text: string,
  requestId: string,
  headers: ResponseHeaders = {},
): Response {
  return new Response(text, {
    status,
    headers: { "x-request-id": requestId, "content-type": JSON_TYPE, ...headers },
  });
}

/** A problem document (RFC 9457). `traceId` names the trace of the request, if it has one. */
export function problemDocument(
  { code, message: detail, members }: Problem,
  requestId: string,
  traceId?: string,
): ProblemDocument {
  const { status, title } = PROBLEMS[code];
  return { type: `urn:onsale:problem:${code}`, title, status, detail, code, requestId, traceId, ...members };
}

/** The headers that a problem needs beside `X-Request-Id`. */
export function problemHeaders(code: ProblemCode): ResponseHeaders {
  const headers: ResponseHeaders = {
    "content-type": "application/problem+json; charset=utf-8",
    "cache-control": "no-store",
  };
  if (PROBLEMS[code].status === 503 || PROBLEMS[code].status === 429)
    headers["retry-after"] = String(RETRY_AFTER_SECONDS);
  if (code === "unauthenticated") headers["www-authenticate"] = CHALLENGE;
  // RFC 9110 §15.5.16: what is taken.
  if (code === "unsupported_media_type") {
    headers["accept"] = "application/json";
    headers["accept-encoding"] = "identity";
  }
  return headers;
}

export function problemResponse(problem: Problem, requestId: string, traceId?: string): Response {
  return new Response(JSON.stringify(problemDocument(problem, requestId, traceId)), {
    status: PROBLEMS[problem.code].status,
    headers: { ...problemHeaders(problem.code), "x-request-id": requestId, ...problem.headers },
  });
}

/** Makes the response to one request. */
export type PreparedProblem = (requestId: string, traceId: string | undefined) => Response;

/**
 * Makes responses to a problem that many clients get. Everything but the request's id is made once; the id needs no escapes
 * (request-id.ts).
 */
export function preparedProblem(problem: Problem): PreparedProblem {
  const text = JSON.stringify(problemDocument(problem, ""));
  const idAt = text.indexOf(ID_MEMBER) + ID_MEMBER.length;
  const [before, after] = [text.slice(0, idAt), text.slice(idAt)];
  const { status } = PROBLEMS[problem.code];
  const headers = { ...problemHeaders(problem.code), ...problem.headers };
  return (requestId, traceId) =>
    traceId === undefined
      ? new Response(before + requestId + after, {
          status,
          headers: { ...headers, "x-request-id": requestId },
        })
      : problemResponse(problem, requestId, traceId);
}

const ID_MEMBER = '"requestId":"';
