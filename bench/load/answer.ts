/** Reads HTTP answers. It searches text without regular expressions, which would cost too much at 60,000 answers a second. */

export interface Answer {
  readonly status: number;
  /** The code of a problem document (RFC 9457). */
  readonly problem: string | undefined;
}

const HEADERS_END = "\r\n\r\n";
const STATUS_AT = "HTTP/1.1 ".length;
/** As hono and Node write it, and as other servers do. */
const LENGTH_NAMES = ["\r\ncontent-length: ", "\r\nContent-Length: "];
const PROBLEM = '"code":"';
const PROBLEMS_FROM = 400;

/** A whole answer; `incomplete` when more must arrive; `unknown` when the answer does not say its length. */
export function parseAnswer(text: string): Answer | "incomplete" | "unknown" {
  const headersEnd = text.indexOf(HEADERS_END);
  if (headersEnd < 0) return "incomplete";
  const status = Number(text.slice(STATUS_AT, STATUS_AT + 3));
  const length = status === 204 || status === 304 ? 0 : contentLength(text, headersEnd);
  if (length === undefined || Number.isNaN(status)) return "unknown";
  if (text.length < headersEnd + HEADERS_END.length + length) return "incomplete";
  return { status, problem: status < PROBLEMS_FROM ? undefined : problemIn(text, headersEnd) };
}

function contentLength(text: string, headersEnd: number): number | undefined {
  for (const name of LENGTH_NAMES) {
    const at = text.indexOf(name);
    if (at < 0 || at > headersEnd) continue;
    const length = Number.parseInt(text.slice(at + name.length, at + name.length + 8), 10);
    return Number.isNaN(length) ? undefined : length;
  }
  return undefined;
}

function problemIn(text: string, headersEnd: number): string | undefined {
  const at = text.indexOf(PROBLEM, headersEnd);
  if (at < 0) return undefined;
  const from = at + PROBLEM.length;
  const end = text.indexOf('"', from);
  return end < 0 ? undefined : text.slice(from, end);
}
