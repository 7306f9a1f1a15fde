/** The OpenAPI document, made from the routes, a page to read and try it, and the AsyncAPI document. Memory serves all. */
import { hash } from "node:crypto";
import { readFile } from "node:fs/promises";
import type { IncomingMessage } from "node:http";
import { createRequire } from "node:module";
import { promisify } from "node:util";
import { gzip } from "node:zlib";
import type { OpenAPIHono } from "@hono/zod-openapi";
import type { HttpEnv } from "../../shared/process/http-server.ts";
import { asyncApiOf } from "./asyncapi.ts";
import { requestIdOf } from "./request-id.ts";

const TITLE = "onsale";

/** Adds `/openapi.json`, `/asyncapi.json` and `/docs`, and leads browsers there from `/`. Call this after all routes were added. */
export function addDocumentation(app: OpenAPIHono<HttpEnv>): void {
  app.openAPIRegistry.registerComponent("securitySchemes", "bearer", {
    type: "http",
    scheme: "bearer",
    bearerFormat: "JWT",
    description: "A token that `npm start` prints, or one of `npm run token -- --sub USER`.",
  });
  const contract = app.getOpenAPI31Document({
    openapi: "3.1.0",
    info: {
      title: TITLE,
      version: "1",
      description: "Book tickets. Errors are problem documents (RFC 9457).",
    },
  });
  const serve = (path: string, type: string, read: () => Promise<Buffer>): void => {
    // Read and zipped for the first client only.
    let file: Promise<ServedFile> | undefined;
    app.get(path, async ({ env }) => fileResponse(await (file ??= servedFile(type, read)), env.incoming));
  };
  const serveJson = (path: string, document: object): void =>
    serve(path, "application/json", async () => Buffer.from(JSON.stringify(document)));
  serveJson("/openapi.json", contract);
  serveJson("/asyncapi.json", asyncApiOf(TITLE, contract.components?.schemas ?? {}));
  serve("/docs", "text/html", async () => Buffer.from(PAGE));
  serve("/docs/start.js", "text/javascript", async () => Buffer.from(SCRIPT));
  serve("/docs/swagger-ui.css", "text/css", swaggerUi("swagger-ui.css"));
  serve("/docs/swagger-ui-bundle.js", "text/javascript", swaggerUi("swagger-ui-bundle.js"));
  app.get("/", (context) => {
    const { accept = "" } = context.env.incoming.headers;
    // Only a browser is led to the page; for a program nothing is here.
    if (!accept.includes("text/html")) return context.notFound();
    const headers = { location: "/docs", "x-request-id": requestIdOf(context.env.incoming) };
    return new Response(null, { status: 302, headers });
  });
}

interface ServedFile {
  readonly type: string;
  readonly plain: Uint8Array<ArrayBuffer>;
  readonly zipped: Uint8Array<ArrayBuffer>;
  /** A hash of the content. The ETag of the zipped form differs from that of the plain one (RFC 9110 §8.8.3.3). */
  readonly tag: string;
}

async function servedFile(type: string, read: () => Promise<Buffer>): Promise<ServedFile> {
  const plain = await read();
  const tag = hash("sha256", plain, "base64url").slice(0, 16);
  const zipped = await promisify(gzip)(plain);
  return {
    type: `${type}; charset=utf-8`,
    plain: new Uint8Array(plain),
    zipped: new Uint8Array(zipped),
    tag,
  };
}

function swaggerUi(name: string): () => Promise<Buffer> {
  return async () => readFile(createRequire(import.meta.url).resolve(`swagger-ui-dist/${name}`));
}

/** Accepts gzip, unless with a weight of 0. */
const ACCEPTS_GZIP = /(?:^|[,\s])gzip(?!\s*;\s*q=0(?:\.0*)?\s*(?:,|$))/i;

function fileResponse({ type, plain, zipped, tag }: ServedFile, incoming: IncomingMessage): Response {
  const isZipped = ACCEPTS_GZIP.test(String(incoming.headers["accept-encoding"] ?? ""));
  const etag = isZipped ? `"${tag}-gzip"` : `"${tag}"`;
  const headers: Record<string, string> = {
    etag,
    vary: "accept-encoding, origin",
    "cache-control": "public, max-age=60",
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-request-id": requestIdOf(incoming),
  };
  if (incoming.headers["if-none-match"]?.split(",").some((known) => known.trim() === etag) === true)
    return new Response(null, { status: 304, headers });
  headers["content-type"] = type;
  if (isZipped) headers["content-encoding"] = "gzip";
  return new Response(isZipped ? zipped : plain, { status: 200, headers });
}

/** The page loads nothing from other hosts. Its style sheet holds images, and its script sets styles. */
const POLICY = [
  "default-src 'none'",
  "script-src 'self'",
  "style-src 'self' 'unsafe-inline'",
  "img-src 'self' data:",
  "connect-src 'self'",
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'none'",
].join("; ");

const PAGE = `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>${TITLE}</title>
<link rel="icon" href="data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 10'%3E%3Crect width='16' height='10' rx='2' fill='%23246'/%3E%3C/svg%3E">
<link rel="stylesheet" href="/docs/swagger-ui.css">
</head>
<body>
<div id="page"></div>
<script src="/docs/swagger-ui-bundle.js"></script>
<script src="/docs/start.js"></script>
</body>
</html>
`;

const SCRIPT = `SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#page",
  deepLinking: true,
  persistAuthorization: true,
  validatorUrl: null,
});
`;
