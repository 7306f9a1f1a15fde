/**
 * Calls to one process of the cluster, mostly a shard node; the door to undici inside the cluster, and the only one to cockatiel. A circuit breaker leaves a failing node alone for a
 * moment: clients get their 503 at once, and the node can recover. A response that does not answer the call, such as a
 * proxy's error page or one from a node with another RPC version, counts as no answer (F9).
 */
import type { Readable } from "node:stream";
import {
  BulkheadRejectedError,
  bulkhead,
  circuitBreaker,
  CircuitState,
  ConsecutiveBreaker,
  handleAll,
} from "cockatiel";
import { type Dispatcher, errors, Pool } from "undici";
import type { z } from "zod";
import type { Log } from "../process/log.ts";
import { Outage } from "../process/outage.ts";
import type { Span, TraceHeaders } from "../watch/tracing.ts";
import { LINES_TYPE, RPC_VERSION, RPC_VERSION_HEADER, rpcVersionProblem } from "./rpc.ts";

/**
 * Why a call has no answer.
 * - `unsent`: the node cannot have seen the call.
 * - `unanswered`: the call was sent, so it may have taken effect.
 * - `busy`: the call was not sent, because too many are under way.
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
/**
 * Calls that are not coalesced: how many of each kind may run, and how many may wait. Anybody may list, so lists have places
 * of their own and few of them: they must not take an organizer's, nor the node's time from bookings. A new webhook may wait for a
 * foreign name server.
 */
const DIRECT_MAX = {
  list: { calls: 4, waiting: 200 },
  change: { calls: 16, waiting: 200 },
  webhooks: { calls: 4, waiting: 50 },
};
export type DirectKind = keyof typeof DIRECT_MAX;

const NEVER_SENT = new Set(["ECONNREFUSED", "ENOTFOUND", "EHOSTUNREACH", "ENETUNREACH", "EAI_AGAIN"]);

/** A call, and the form of its answer. */
export interface Call<Answer> {
  readonly path: string;
  /** Without one it is a GET. */
  readonly body?: unknown;
  readonly answer: z.ZodType<Answer>;
  /** How many results the answer must have, unless it is a failure or a line of a stream. */
  readonly results?: number;
  readonly timeoutMs: number;
  readonly span?: Span | undefined;
  /** Hears each line of an answer that is a stream. The last line is also the answer of the call. */
  readonly heard?: ((part: Answer) => void) | undefined;
}

export class NodeClient {
  readonly url: string;
  readonly #pool: Pool;
  readonly #headers: Record<string, string>;
  #breaker = this.#closedBreaker();
  /** By `performance.now()`. Until then no answer closes the breaker. */
  #restsUntil = 0;
  readonly #bulkheads = {
    list: bulkhead(DIRECT_MAX.list.calls, DIRECT_MAX.list.waiting),
    change: bulkhead(DIRECT_MAX.change.calls, DIRECT_MAX.change.waiting),
    webhooks: bulkhead(DIRECT_MAX.webhooks.calls, DIRECT_MAX.webhooks.waiting),
  } satisfies Record<DirectKind, unknown>;
  readonly #understanding: Outage;

  constructor(url: string, internalToken: string, connections: number, log: Log) {
    this.url = url;
    this.#headers = {
      authorization: `Bearer ${internalToken}`,
      "content-type": "application/json",
      [RPC_VERSION_HEADER]: RPC_VERSION,
    };
    this.#pool = new Pool(new URL(url).origin, {
      connections: Object.values(DIRECT_MAX).reduce((sum, { calls }) => sum + calls, connections),
      connect: { timeout: CONNECT_TIMEOUT_MS },
      keepAliveTimeout: 30_000,
    });
    this.#understanding = new Outage(log, `a common RPC with ${url}`);
  }

  get open(): boolean {
    return this.#breaker.state !== CircuitState.Closed;
  }

  /** Calls the node through the breaker. The caller bounds how many calls run at once. Throws only CallError. */
  async call<Answer>(call: Call<Answer>): Promise<Answer> {
    // No client waits for the test whether a node is back: that is the business of `probe`.
    if (this.#breaker.state !== CircuitState.Closed)
      throw new CallError("unsent", `${this.url} failed lately`);
    return this.#breaker.execute(async () => this.#ask(call));
  }

  /** Asks the node even while the breaker is open. The answer closes the breaker when the node can serve again. */
  async probe<Answer>(call: Call<Answer>): Promise<Answer> {
    const answer = await this.#ask(call);
    const rested = performance.now() >= this.#restsUntil;
    if (this.open && rested && !isFailure(answer)) this.#breaker = this.#closedBreaker();
    return answer;
  }

  /** The same for calls that the caller does not bound. The wait for a place is a part of the call's time. */
  async direct<Answer>(kind: DirectKind, call: Call<Answer>): Promise<Answer> {
    const until = performance.now() + call.timeoutMs;
    try {
      return await this.#bulkheads[kind].execute(async () => {
        // Those in front have deadlines before this one, so a place is free by then.
        const timeoutMs = until - performance.now();
        if (timeoutMs <= 0) throw new CallError("busy", `${this.url} was busy until the deadline`);
        return this.call({ ...call, timeoutMs });
      });
    } catch (error) {
      if (error instanceof BulkheadRejectedError) throw new CallError("busy", `${this.url} is busy`, error);
      throw error;
    }
  }

  /** Once open it stays open. The library would wait by the time of day, and a clock that is set back would stop it for long. */
  #closedBreaker() {
    const breaker = circuitBreaker(handleAll.orWhenResult(isFailure), {
      halfOpenAfter: Number.POSITIVE_INFINITY,
      breaker: new ConsecutiveBreaker(BREAKER_FAILURES),
    });
    breaker.onBreak(() => (this.#restsUntil = performance.now() + BREAKER_OPEN_MS));
    return breaker;
  }

  async #ask<Answer>(call: Call<Answer>): Promise<Answer> {
    const { status, version, text } = await this.#send(call, (line) => {
      const part = answerIn(line, call);
      if (part === undefined) throw new Error("a line is no answer to the call");
      call.heard?.(part);
    });
    const what = `${this.url}${call.path}: status ${status}`;
    const problem = rpcVersionProblem(version, ["router", "node"]);
    // The body of a 421 (RFC 9110 §15.5.20), of a 410 and of a node's own 503 says what happened.
    if (
      status === 200 ||
      status === 410 ||
      status === 421 ||
      (status === 503 && text.includes('"outcome"'))
    ) {
      const answer = problem === undefined ? answerIn(text, call) : undefined;
      if (answer === undefined) {
        // Whatever sent this response may have carried the call out.
        const error = new CallError("unanswered", `${what}: ${problem ?? "it is no answer to the call"}`);
        this.#understanding.failed(error);
        throw error;
      }
      this.#understanding.worked();
      return answer;
    }
    if (problem !== undefined) this.#understanding.failed(`${what}: ${problem}`);
    // A node that refuses a whole call, for a wrong token or version, has not begun it.
    throw new CallError(status < 500 || status === 503 ? "unsent" : "unanswered", what);
  }

  /**
   * Asks for an answer that is too long to hold. Returns it as soon as it begins, within `timeoutMs`; undefined when it is not of
   * `type`. `signal` ends it, also later. The breaker counts none of these: a client that leaves is no fault of the other
   * side. Throws only CallError.
   */
  async stream(
    { path, body, timeoutMs }: Pick<Call<unknown>, "path" | "body" | "timeoutMs">,
    type: string,
    signal: AbortSignal,
  ): Promise<Readable | undefined> {
    if (this.open) throw new CallError("unsent", `${this.url} failed lately`);
    const late = new AbortController();
    const timer = setTimeout(() => late.abort(new Error(`no answer within ${timeoutMs} ms`)), timeoutMs);
    try {
      const response = await this.#request({ path, body }, AbortSignal.any([signal, late.signal]));
      const { statusCode: status, headers, body: answer } = response;
      const problem = rpcVersionProblem(headers[RPC_VERSION_HEADER]?.toString(), ["router", "node"]);
      if (status === 200 && problem === undefined && headers["content-type"] === type) return answer;
      // So that its connection can be used again.
      await answer.dump();
      if (status === 503) return undefined;
      throw new CallError("unanswered", `${this.url}${path}: ${problem ?? `status ${status}`}`);
    } finally {
      clearTimeout(timer);
    }
  }

  async close(): Promise<void> {
    await this.#pool.close();
  }

  /** `heard` hears every line of a stream; the text is then the last one. */
  async #send(
    { path, body, timeoutMs, span }: Omit<Call<unknown>, "heard">,
    heard: (line: string) => void,
  ): Promise<Response> {
    const headers = span?.headers();
    // One timer for the whole call; undici's own have a resolution of a second.
    const signal = AbortSignal.timeout(Math.ceil(timeoutMs));
    try {
      const response = await this.#request({ path, body, headers }, signal);
      const { statusCode: status, headers: answered } = response;
      span?.set({ "http.response.status_code": status });
      const text =
        answered["content-type"] === LINES_TYPE
          ? await linesOf(response.body.setEncoding("utf8"), heard)
          : await response.body.text();
      return { status, version: answered[RPC_VERSION_HEADER]?.toString(), text };
    } catch (cause) {
      throw cause instanceof CallError ? cause : this.#lost(path, cause);
    }
  }

  async #request(
    { path, body, headers }: { path: string; body: unknown; headers?: TraceHeaders | undefined },
    signal: AbortSignal,
  ): Promise<Dispatcher.ResponseData> {
    try {
      return await this.#pool.request({
        method: body === undefined ? "GET" : "POST",
        path,
        headers: headers === undefined ? this.#headers : { ...this.#headers, ...headers },
        body: body === undefined ? null : JSON.stringify(body),
        signal,
        headersTimeout: 0,
        bodyTimeout: 0,
        // undici must not repeat a call on its own: only the caller knows what is safe to repeat.
        idempotent: false,
      });
    } catch (cause) {
      throw this.#lost(path, cause);
    }
  }

  #lost(path: string, cause: unknown): CallError {
    const code = cause instanceof Error && "code" in cause ? String(cause.code) : "";
    const unsent = NEVER_SENT.has(code) || cause instanceof errors.ConnectTimeoutError;
    return new CallError(unsent ? "unsent" : "unanswered", `${this.url}${path}: ${String(cause)}`, cause);
  }
}

interface Response {
  readonly status: number;
  readonly version: string | undefined;
  readonly text: string;
}

/** Reads a stream of lines, tells each as soon as it is there, and returns the last. */
async function linesOf(body: AsyncIterable<string>, heard: (line: string) => void): Promise<string> {
  let last = "";
  let rest = "";
  for await (const piece of body) {
    const lines = (rest + piece).split("\n");
    rest = lines.pop() ?? "";
    for (const line of lines) heard((last = line));
  }
  return last;
}

function answerIn<Answer>(text: string, { answer, results }: Call<Answer>): Answer | undefined {
  let said: unknown;
  try {
    said = JSON.parse(text);
  } catch {
    return undefined;
  }
  const { data } = answer.safeParse(said);
  const given = resultsOf(data);
  const wanted = (data as { positions?: readonly number[] } | undefined)?.positions?.length ?? results;
  return wanted !== undefined && given !== undefined && given.length !== wanted ? undefined : data;
}

/** True for an answer in which everything failed: the node works, but its database does not. */
function isFailure(answer: unknown): boolean {
  if ((answer as { databaseUp?: boolean }).databaseUp === false) return true;
  const failed = ({ outcome }: { readonly outcome?: unknown }): boolean =>
    outcome === "shard_unavailable" || outcome === "outcome_unknown";
  return resultsOf(answer)?.every(failed) ?? failed(answer as object);
}

function resultsOf(answer: unknown): readonly { readonly outcome: string }[] | undefined {
  return (answer as { results?: readonly { readonly outcome: string }[] } | undefined)?.results;
}
