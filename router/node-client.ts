/**
 * Calls to one shard node, the only door to undici and cockatiel. A node that keeps failing is left alone for a moment
 * (circuit breaker), so that its clients get their 503 at once and the node gets room to recover.
 */
import {
  BrokenCircuitError,
  BulkheadRejectedError,
  bulkhead,
  circuitBreaker,
  CircuitState,
  ConsecutiveBreaker,
  handleAll,
} from "cockatiel";
import { errors, Pool } from "undici";
import type { Span } from "../shared/tracing.ts";

/**
 * Why a call has no answer.
 * - `unsent`: the node cannot have seen it.
 * - `unanswered`: it was sent, so it may have taken effect.
 * - `busy`: too many such calls are under way already; it was not sent.
 */
export class CallError extends Error {
  override readonly name = "CallError";
  readonly kind: "unsent" | "unanswered" | "busy";

  constructor(kind: CallError["kind"], message: string, cause?: unknown) {
    super(message, { cause });
    this.kind = kind;
  }
}

const BREAKER_FAILURES = 3;
const BREAKER_OPEN_MS = 1_000;
const CONNECT_TIMEOUT_MS = 1_000;
/** Calls outside the coalesced ones (lists, event changes) that may run and wait. */
const DIRECT_CALLS_MAX = 16;
const DIRECT_WAITING_MAX = 200;

const NEVER_SENT = new Set(["ECONNREFUSED", "ENOTFOUND", "EHOSTUNREACH", "ENETUNREACH", "EAI_AGAIN"]);

export class NodeClient {
  readonly url: string;
  readonly #pool: Pool;
  readonly #headers: Record<string, string>;
  readonly #breaker = circuitBreaker(handleAll.orWhenResult(isFailure), {
    halfOpenAfter: BREAKER_OPEN_MS,
    breaker: new ConsecutiveBreaker(BREAKER_FAILURES),
  });
  readonly #bulkhead = bulkhead(DIRECT_CALLS_MAX, DIRECT_WAITING_MAX);

  constructor(url: string, internalToken: string, connections: number) {
    this.url = url;
    this.#headers = { authorization: `Bearer ${internalToken}`, "content-type": "application/json" };
    this.#pool = new Pool(url, {
      connections: connections + DIRECT_CALLS_MAX,
      connect: { timeout: CONNECT_TIMEOUT_MS },
      keepAliveTimeout: 30_000,
    });
  }

  get open(): boolean {
    return this.#breaker.state === CircuitState.Open;
  }

  /** Reads from the node whatever the breaker says, and without telling it: a node may know the map and still fail. */
  async get<Answer>(path: string, timeoutMs: number): Promise<Answer> {
    return this.#request<Answer>("GET", path, undefined, timeoutMs);
  }

  /**
   * Calls the node and returns its JSON answer; `span` is the call's. The caller bounds how many run at once. Throws only
   * CallError.
   */
  async call<Answer>(path: string, body: unknown, timeoutMs: number, span?: Span): Promise<Answer> {
    try {
      return await this.#breaker.execute(async () =>
        this.#request<Answer>("POST", path, body, timeoutMs, span),
      );
    } catch (error) {
      if (error instanceof BrokenCircuitError)
        throw new CallError("unsent", `${this.url} failed lately`, error);
      throw error;
    }
  }

  /** The same for calls that nobody else bounds: at most so many run, and so many wait. */
  async direct<Answer>(path: string, body: unknown, timeoutMs: number, span?: Span): Promise<Answer> {
    try {
      return await this.#bulkhead.execute(async () => this.call<Answer>(path, body, timeoutMs, span));
    } catch (error) {
      if (error instanceof BulkheadRejectedError) throw new CallError("busy", `${this.url} is busy`, error);
      throw error;
    }
  }

  async close(): Promise<void> {
    await this.#pool.close();
  }

  async #request<Answer>(
    method: "GET" | "POST",
    path: string,
    body: unknown,
    timeoutMs: number,
    span?: Span,
  ): Promise<Answer> {
    let status: number;
    let text: string;
    try {
      const response = await this.#pool.request({
        method,
        path,
        headers: span === undefined ? this.#headers : { ...this.#headers, ...span.headers() },
        body: body === undefined ? null : JSON.stringify(body),
        // One timer for all of it; undici's own are a second coarse.
        signal: AbortSignal.timeout(Math.ceil(timeoutMs)),
        headersTimeout: 0,
        bodyTimeout: 0,
        // A connection that broke is reported, never silently used again: only the caller knows what is safe to repeat.
        idempotent: false,
      });
      status = response.statusCode;
      span?.set({ "http.response.status_code": status });
      text = await response.body.text();
    } catch (cause) {
      const code = cause instanceof Error && "code" in cause ? String(cause.code) : "";
      const unsent = NEVER_SENT.has(code) || cause instanceof errors.ConnectTimeoutError;
      throw new CallError(unsent ? "unsent" : "unanswered", `${this.url}${path}: ${String(cause)}`, cause);
    }
    // 421 (RFC 9110 §15.5.20) and a node's own 503 say in the body what happened.
    if (status === 200 || status === 421 || (status === 503 && text.includes('"outcome"'))) {
      return parseAnswer<Answer>(text, `${this.url}${path}`);
    }
    // A node that refuses a call as a whole (a wrong token, say) has not begun it.
    throw new CallError(
      status < 500 || status === 503 ? "unsent" : "unanswered",
      `${this.url}${path}: status ${status}`,
    );
  }
}

/** An answer in which everything failed: the node works, but its database does not. */
function isFailure(answer: unknown): boolean {
  const { outcome, results } = answer as { outcome?: string; results?: readonly { outcome: string }[] };
  const outcomes = results?.map((result) => result.outcome) ?? [outcome];
  return outcomes.every((each) => each === "shard_unavailable" || each === "outcome_unknown");
}

function parseAnswer<Answer>(text: string, from: string): Answer {
  try {
    return JSON.parse(text) as Answer;
  } catch (cause) {
    throw new CallError("unanswered", `${from} did not answer in JSON`, cause);
  }
}
