/** One request and its answer. */
import http, { type RefinedResponse, type ResponseType } from "k6/http";
import type { Answer } from "./contract.ts";

/** What requests are called in metrics; "prepare" is all that a scenario does before and after what it measures. */
export type RequestName = "read" | "list" | "book" | "hold" | "confirm" | "cancel" | "prepare";

export interface Request {
  readonly name: RequestName;
  readonly method: "GET" | "POST" | "DELETE";
  readonly url: string;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: object;
  /** The statuses that are answers; k6 counts all others as failed. */
  readonly expected: readonly number[];
}

/** Longer than a router tries. */
const TIMEOUT = "10s";
/** How many requests one VU may have under way. */
export const AT_ONCE = 50;
const SAID_CHARACTERS_MAX = 300;

/** Status 0 is no answer at all. */
export function ask(request: Request): Answer {
  const [method, url, body, params] = requestOf(request);
  return answerOf(http.request(method, url, body, params));
}

/** Sends the same request `times` times, several at once, and gives the answers. */
export function askTimes(times: number, request: Request): Answer[] {
  const answers: Answer[] = [];
  while (answers.length < times) {
    const batch = Array.from({ length: Math.min(AT_ONCE, times - answers.length) }, () => requestOf(request));
    answers.push(...http.batch(batch).map(answerOf));
  }
  return answers;
}

/** An answer on one line, for people. */
export function said({ status, body }: Answer): string {
  const text = JSON.stringify(body) ?? "nothing that is JSON";
  return `${status === 0 ? "no answer" : status} ${text.slice(0, SAID_CHARACTERS_MAX)}`;
}

function requestOf({ name, method, url, headers = {}, body, expected }: Request) {
  const sent = body === undefined ? null : JSON.stringify(body);
  const params = {
    headers: body === undefined ? headers : { ...headers, "Content-Type": "application/json" },
    tags: { name },
    timeout: TIMEOUT,
    responseCallback: http.expectedStatuses(...expected),
  };
  return [method, url, sent, params] as [typeof method, string, string | null, typeof params];
}

function answerOf({ status, headers, body }: RefinedResponse<ResponseType | undefined>): Answer {
  return { status, headers, body: typeof body === "string" ? parsed(body) : undefined };
}

function parsed(body: string): unknown {
  try {
    return JSON.parse(body) as unknown;
  } catch {
    return undefined;
  }
}
