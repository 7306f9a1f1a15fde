/** The public API: routes, and the one place where answers and errors become HTTP. */
import { createServer, METHODS, STATUS_CODES } from "node:http";
import type { Socket } from "node:net";
import rateLimit from "@fastify/rate-limit";
import swagger from "@fastify/swagger";
import swaggerUi from "@fastify/swagger-ui";
import Fastify, {
  type FastifyError,
  type FastifyInstance,
  type FastifyReply,
  type FastifyRequest,
} from "fastify";
import { jsonSchemaTransform, jsonSchemaTransformObject, validatorCompiler } from "fastify-type-provider-zod";
import { Problem, PROBLEMS } from "../shared/errors.ts";
import type { Log } from "../shared/log.ts";
import { EVENT_ROUTE, memoryReads } from "./memory-reads.ts";
import type { RouterMetrics } from "./metrics.ts";
import type { RouterParts } from "./parts.ts";
import { problemDocument, problemHeaders, sendProblem } from "./problems.ts";
import { nameSpan, traced, traceOf } from "./request-trace.ts";
import { newRequestId, requestIdOf } from "./request-id.ts";
import { bookingRoutes } from "./routes/bookings.ts";
import { eventRoutes } from "./routes/events.ts";
import { bodyOf, shortBookings } from "./short-bookings.ts";

const BODY_MAX_BYTES = 16 * 1024;
const HEADERS_MAX_BYTES = 16 * 1024;
const ID_CHARACTERS_MAX = 256;
/** A client that is slow on purpose loses its connection (Node.js manual, http.createServer). */
const SERVER_LIMITS = {
  maxHeaderSize: HEADERS_MAX_BYTES,
  headersTimeout: 10_000,
  requestTimeout: 15_000,
  connectionsCheckingInterval: 5_000,
  keepAliveTimeout: 65_000,
  // Checked by the first hook, which answers with a problem document.
  requireHostHeader: false,
};

export async function createRouterApp(parts: RouterParts): Promise<FastifyInstance> {
  const { metrics, cache, log, tracing } = parts;
  const memory = memoryReads(cache, () => metrics.cacheRead("memory", "hit"), memoryObserver(metrics));
  const app = Fastify({
    bodyLimit: BODY_MAX_BYTES,
    genReqId: (request) => requestIdOf(request),
    routerOptions: { maxParamLength: ID_CHARACTERS_MAX },
    // While it drains, a connection that is still open is served as ever.
    return503OnClosing: false,
    clientErrorHandler: (error, socket) => {
      metrics.http.answered("unparsable", "none", PROBLEMS.invalid_request.status, 0);
      answerBrokenRequest(error, socket);
    },
    frameworkErrors: (error, _request, reply) => void answerError(log, error, reply),
    serverFactory: (handler) => {
      const bookings = shortBookings(parts, handler);
      const answer = traced(tracing, (request, response) => {
        // Who drains tells its clients so, and that is the framework's work.
        if (server.listening && (memory(request, response) || bookings(request, response))) return;
        handler(request, response);
      });
      const server = createServer(SERVER_LIMITS, answer);
      server.maxConnections = parts.connectionsMax;
      server.on("drop", () => metrics.connectionRefused());
      // Node.js would answer these two by itself, without a problem document.
      server.on("checkExpectation", (request, response) => handler(request, response));
      server.on("connect", (_request, socket) => answerBrokenRequest(new Error("CONNECT"), socket as Socket));
      return server;
    },
  });

  app.addHook("onRequest", (request, reply, done) => {
    reply.header("x-request-id", request.id);
    // RFC 9112 §3.2: HTTP/1.1 requires it.
    if (request.headers.host === undefined && request.raw.httpVersion === "1.1")
      done(new Problem("invalid_request", "The Host header is missing."));
    else done();
  });
  app.addHook("preParsing", (request, _reply, payload, done) => done(null, bodyOf(request, payload)));
  app.addHook("onResponse", (request, reply, done) => {
    const route = request.routeOptions.url?.replace(/:(\w+)/g, "{$1}") ?? "unmatched";
    metrics.http.answered(route, request.method, reply.statusCode, reply.elapsedTime / 1000);
    nameSpan(request.raw, route, request.id);
    done();
  });
  app.setErrorHandler(async (error: FastifyError, _request, reply) => answerError(log, error, reply));
  app.setNotFoundHandler(async (request, reply) =>
    sendProblem(
      reply,
      new Problem("not_found", `Nothing is at ${request.method} ${request.url.slice(0, 200)}.`),
    ),
  );

  acceptJsonOnly(app);
  app.setValidatorCompiler(validatorCompiler);
  // Answers are built here from checked data; checking them again for every client would cost more than routing them.
  app.setSerializerCompiler(() => (data) => JSON.stringify(data));
  const allowed = collectMethods(app);

  if (parts.writeLimit !== false) {
    await app.register(rateLimit, {
      global: false,
      hook: "preHandler",
      timeWindow: 1_000,
      keyGenerator: (request: FastifyRequest) => request.caller.userId,
      errorResponseBuilder: () => {
        metrics.rateLimited();
        return new Problem("rate_limited", "Too many writes by this user; slow down.");
      },
    });
  }
  await app.register(swagger, {
    openapi: {
      openapi: "3.1.0",
      info: {
        title: "onsale",
        version: "1",
        description: "Book tickets. Errors are problem documents (RFC 9457).",
      },
      components: { securitySchemes: { bearer: { type: "http", scheme: "bearer", bearerFormat: "JWT" } } },
    },
    transform: jsonSchemaTransform,
    transformObject: (document) => describeProblems(jsonSchemaTransformObject(document)),
  });
  await app.register(swaggerUi, {
    routePrefix: "/docs",
    uiConfig: { validatorUrl: null, persistAuthorization: true },
  });
  await app.register(eventRoutes(parts));
  await app.register(bookingRoutes(parts));
  app.get("/openapi.json", { schema: { hide: true } }, async () => app.swagger());
  refuseOtherMethods(app, allowed);
  return app;
}

/** Refusals have a media type of their own (RFC 9457 §3), which a route's schema cannot say. */
function describeProblems<Document extends object>(document: Document): Document {
  const { paths = {} } = document as {
    paths?: Record<string, Record<string, { responses?: Record<string, unknown> }>>;
  };
  for (const operation of Object.values(paths).flatMap((path) => Object.values(path))) {
    const refusal = operation.responses?.["default"] as { content?: Record<string, unknown> } | undefined;
    const schema = refusal?.content?.["application/json"];
    if (operation.responses === undefined || schema === undefined) continue;
    operation.responses["default"] = {
      description: "Refused; `code` says why.",
      headers: {
        "X-Request-Id": { schema: { type: "string" } },
        "Retry-After": { schema: { type: "integer" } },
      },
      content: { "application/problem+json": schema },
    };
  }
  return document;
}

function memoryObserver({ http }: RouterMetrics): (status: 200 | 304, seconds: number) => void {
  const [ok, notModified] = [http.observer(EVENT_ROUTE, "GET", 200), http.observer(EVENT_ROUTE, "GET", 304)];
  return (status, seconds) => (status === 200 ? ok : notModified)(seconds);
}

/** An empty body counts as none, whatever its media type: clients send the header on requests that need no body. */
function acceptJsonOnly(app: FastifyInstance): void {
  app.removeAllContentTypeParsers();
  const parse = app.getDefaultJsonParser("error", "error");
  app.addContentTypeParser("application/json", { parseAs: "string" }, (request, body, done) => {
    if (body.length === 0) done(null, undefined);
    else void parse(request, body as string, done);
  });
}

/** The methods of each address, as its routes are added. */
function collectMethods(app: FastifyInstance): Map<string, Set<string>> {
  const allowed = new Map<string, Set<string>>();
  app.addHook("onRoute", ({ url, method }) => {
    const methods = allowed.get(url) ?? new Set();
    for (const name of [method].flat()) methods.add(name);
    allowed.set(url, methods);
  });
  return allowed;
}

/** Every other method on a known address is 405 with `Allow` (RFC 9110 §15.5.6), before anybody is asked who they are. */
function refuseOtherMethods(app: FastifyInstance, allowed: ReadonlyMap<string, ReadonlySet<string>>): void {
  const known = new Set(app.supportedMethods);
  for (const method of METHODS) {
    if (method !== "CONNECT" && !known.has(method)) app.addHttpMethod(method);
  }
  // A copy: the routes added here are noted in the map too.
  const addresses = Array.from(allowed);
  for (const [url, methods] of addresses) {
    // The documentation's own files stay with the plugin that serves them.
    if (url.startsWith("/docs/")) continue;
    const allow = [...methods].sort().join(", ");
    app.route({
      url,
      method: app.supportedMethods.filter((method) => !methods.has(method)),
      schema: { hide: true },
      exposeHeadRoute: false,
      onRequest: async (_request, reply) =>
        sendProblem(reply.header("allow", allow), new Problem("method_not_allowed", `Use ${allow} here.`)),
      handler: () => undefined,
    });
  }
}

/** Parts of a request, as a client knows them. */
const WHERE: Readonly<Record<string, string>> = {
  params: "address",
  querystring: "query",
  headers: "header",
  body: "body",
};

function answerError(log: Log, error: FastifyError | Problem, reply: FastifyReply): FastifyReply {
  if (error instanceof Problem) return sendProblem(reply, error);
  if (error.validation !== undefined) {
    const where = WHERE[error.validationContext ?? "body"] ?? "body";
    const errors = error.validation.map(({ instancePath, message = "is not valid" }) => ({
      path: instancePath.replace(/^\//, "").replaceAll("/", ".") || where,
      message,
    }));
    return sendProblem(reply, new Problem("invalid_request", `The ${where} is not valid.`, { errors }));
  }
  switch (error.code) {
    case "FST_ERR_CTP_BODY_TOO_LARGE":
      return sendProblem(reply, new Problem("body_too_large", `A body has at most ${BODY_MAX_BYTES} bytes.`));
    case "FST_ERR_CTP_INVALID_MEDIA_TYPE":
      return sendProblem(reply, new Problem("unsupported_media_type", "Send the body as application/json."));
    default:
  }
  // Everything else that the framework or the parser blames on the client: bad JSON, a bad URL, a wrong length.
  if (error.statusCode !== undefined && error.statusCode < 500) {
    return sendProblem(reply, new Problem("invalid_request", error.message));
  }
  const { id: requestId, raw } = reply.request;
  log.error({ err: error, requestId, traceId: traceOf(raw)?.traceId }, "a request failed");
  return sendProblem(reply, new Problem("internal", "This is a bug; it is logged under the request's id."));
}

/** Answers what is not HTTP, or has headers beyond the limit, and hangs up. */
function answerBrokenRequest(error: Error & { code?: string }, socket: Socket): void {
  if (error.code === "ECONNRESET" || !socket.writable) {
    socket.destroy();
    return;
  }
  const detail =
    error.code === "HPE_HEADER_OVERFLOW"
      ? `The request's headers have more than ${HEADERS_MAX_BYTES} bytes.`
      : error.code === "ERR_HTTP_REQUEST_TIMEOUT"
        ? "The request did not arrive in time."
        : "The request is not valid HTTP.";
  const requestId = newRequestId();
  const body = JSON.stringify(problemDocument("invalid_request", detail, requestId));
  const { status } = PROBLEMS.invalid_request;
  const headers = {
    ...problemHeaders("invalid_request"),
    "x-request-id": requestId,
    "content-length": String(Buffer.byteLength(body)),
    connection: "close",
  };
  const head = Object.entries(headers).map(([name, value]) => `${name}: ${value}\r\n`);
  socket.end(`HTTP/1.1 ${status} ${STATUS_CODES[status]}\r\n${head.join("")}\r\n${body}`);
}
