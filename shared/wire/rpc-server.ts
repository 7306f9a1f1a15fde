/**
 * The server's side of the RPC between processes of the cluster: who may call, in which version, and how calls are answered,
 * counted and traced. What may be asked is said by each role. Calls without the internal token are refused.
 */
import { timingSafeEqual } from "node:crypto";
import type { IncomingMessage, Server } from "node:http";
import type { Readable } from "node:stream";
import { Hono } from "hono";
import type { z } from "zod";
import { bodyOf, BodyError, type ConnectionShed } from "../process/connections.ts";
import { createHttpServer, type HttpBindings, type HttpEnv, streamed } from "../process/http-server.ts";
import type { Log } from "../process/log.ts";
import type { HttpMetrics } from "../watch/metrics.ts";
import type { Span, Tracing } from "../watch/tracing.ts";
import { LINES_TYPE, RPC_VERSION, RPC_VERSION_HEADER, rpcVersionProblem } from "./rpc.ts";

/** A full batch of the largest commands fits many times over. */
const BODY_MAX_BYTES = 8 * 1024 * 1024;

/** A router opens some two hundred at most. */
const CONNECTIONS_MAX = 10_000;

/** What a stream ends with when nobody reads on (Node.js manual, stream.pipeline). */
const CALLER_LEFT = "ERR_STREAM_PREMATURE_CLOSE";

/** The answer to a call, sent as JSON. */
export interface Reply {
  readonly status: number;
  readonly body: object;
  /** What is not known yet. The body becomes the first line of a stream, and each of these a further one. */
  readonly more?: AsyncIterable<object>;
}

/** The answer to a call that is no JSON and too long to hold. */
export interface StreamedReply {
  readonly headers: Readonly<Record<string, string>>;
  readonly content: Readable;
}

export const ok = (body: object): Reply => ({ status: 200, body });

export interface RpcServerParts {
  /** A call with any of them is admitted. */
  readonly internalTokens: readonly string[];
  readonly metrics: { readonly http: HttpMetrics; readonly shed: (reason: ConnectionShed) => void };
  /** The answer to a call that failed for a known reason; undefined for a bug, which is logged. */
  readonly failed: (error: unknown) => Reply | undefined;
  readonly log: Log;
  /** undefined while tracing is off. */
  readonly tracing?: Tracing | undefined;
}

export class RpcServer {
  readonly #app = new Hono<HttpEnv>();
  readonly #parts: RpcServerParts;

  constructor(parts: RpcServerParts) {
    this.#parts = parts;
    this.#app.notFound(({ env }) =>
      this.#refuse(env.incoming, { status: 404, body: { error: "there is no such call" } }),
    );
  }

  /** Answers POST calls to `path`, whose body has the form of `schema`. */
  call<Body>(
    path: string,
    schema: z.ZodType<Body>,
    run: (body: Body, span: Span | undefined) => Promise<Reply | StreamedReply>,
  ): void {
    this.#app.post(path, async ({ env }) =>
      this.#served(path, env, async (span) =>
        run(valid(schema, await bodyOf(env.incoming, BODY_MAX_BYTES)), span),
      ),
    );
  }

  /** Answers GET calls to `path`. */
  question(path: string, run: () => Promise<Reply>): void {
    this.#app.get(path, async ({ env }) => this.#served(path, env, run));
  }

  /** A server that does not listen yet. */
  server(): Server {
    const admits = admission(this.#parts.internalTokens);
    return createHttpServer({
      fetch: (request, env) => {
        const { incoming } = env;
        if (!admits(incoming))
          return this.#refuse(incoming, {
            status: 401,
            body: { error: "this port answers only to routers" },
          });
        const error = rpcVersionProblem(incoming.headers[RPC_VERSION_HEADER]?.toString());
        return error === undefined
          ? this.#app.fetch(request, env)
          : this.#refuse(incoming, { status: 400, body: { error } });
      },
      refuse: (error) => ({
        status: 400,
        headers: { "content-type": "application/json", [RPC_VERSION_HEADER]: RPC_VERSION },
        body: JSON.stringify({ error }),
      }),
      connectionsMax: CONNECTIONS_MAX,
      shed: this.#parts.metrics.shed,
    });
  }

  #refuse({ method = "" }: IncomingMessage, reply: Reply): Response {
    this.#parts.metrics.http.answered("unmatched", method, reply.status, 0);
    return answer(reply);
  }

  /** Answers a call, and counts and traces every answer, that to a failure too. */
  async #served(
    path: string,
    { incoming: { headers, method = "" }, outgoing }: HttpBindings,
    run: (span: Span | undefined) => Promise<Reply | StreamedReply>,
  ): Promise<Response> {
    const { metrics, tracing, log, failed } = this.#parts;
    const started = performance.now();
    const span = tracing && startCallSpan(tracing, headers, method, path);
    let reply: Reply | StreamedReply;
    try {
      reply = await run(span);
    } catch (error) {
      const known =
        error instanceof InvalidCall || error instanceof BodyError
          ? { status: 400, body: { outcome: "internal", error: error.message } }
          : failed(error);
      if (known === undefined) log.error({ err: error, traceId: span?.traceId }, "an RPC failed");
      reply = known ?? { status: 500, body: { outcome: "internal" } };
    }
    const status = "content" in reply ? 200 : reply.status;
    metrics.http.answered(path, method, status, (performance.now() - started) / 1000);
    span?.set({ "http.response.status_code": status });
    if (status >= 500) span?.failed(String(status));
    span?.end();
    if (!("content" in reply)) return answer(reply);
    reply.content.once("error", (error: NodeJS.ErrnoException) => {
      if (error.code !== CALLER_LEFT) log.warn({ reason: String(error) }, "an answer was cut off");
    });
    return streamed(outgoing, { ...reply.headers, [RPC_VERSION_HEADER]: RPC_VERSION }, reply.content);
  }
}

function answer({ status, body, more }: Reply): Response {
  const headers = { "content-type": "application/json", [RPC_VERSION_HEADER]: RPC_VERSION };
  if (more === undefined) return new Response(JSON.stringify(body), { status, headers });
  headers["content-type"] = LINES_TYPE;
  return new Response(ReadableStream.from(linesOf(body, more)), { status, headers });
}

async function* linesOf(first: object, more: AsyncIterable<object>): AsyncGenerator<Uint8Array> {
  const lineOf = (body: object): Uint8Array => Buffer.from(`${JSON.stringify(body)}\n`);
  yield lineOf(first);
  for await (const body of more) yield lineOf(body);
}

function admission(tokens: readonly string[]): (incoming: IncomingMessage) => boolean {
  const expected = tokens.map((token) => Buffer.from(`Bearer ${token}`));
  return ({ headers }) => {
    const given = Buffer.from(headers.authorization ?? "");
    return expected.some((token) => token.length === given.length && timingSafeEqual(token, given));
  };
}

/** The body of a call does not have the form of this RPC. */
class InvalidCall extends Error {
  override readonly name = "InvalidCall";
}

/** The call's own span, when the caller's is sampled (OpenTelemetry semantic conventions, HTTP server spans). */
function startCallSpan(
  tracing: Tracing,
  headers: IncomingMessage["headers"],
  method: string,
  route: string,
): Span | undefined {
  return tracing.remote(headers)?.child(`${method} ${route}`, "server", {
    "http.request.method": method,
    "http.route": route,
    "url.path": route,
    "url.scheme": "http",
  });
}

function valid<Body>(schema: z.ZodType<Body>, text: string): Body {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw new InvalidCall("the body of the call is not JSON", { cause });
  }
  const parsed = schema.safeParse(value);
  if (parsed.success) return parsed.data;
  throw new InvalidCall("the body of the call is not valid", { cause: parsed.error });
}
