/** The contract, made from the routes, and a page to read and try it. Everything is served from memory. */
import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { promisify } from "node:util";
import { gzip } from "node:zlib";
import type { OpenAPIHono } from "@hono/zod-openapi";
import type { Context } from "hono";
import type { HttpEnv } from "../../shared/process/http-server.ts";
import { requestIdOf } from "./request-id.ts";

const TITLE = "onsale";

/** Adds `/openapi.json`, `/docs`, and a way there from `/` for browsers. Call it after all routes were added. */
export function addDocumentation(app: OpenAPIHono<HttpEnv>): void {
  app.openAPIRegistry.registerComponent("securitySchemes", "bearer", {
    type: "http",
    scheme: "bearer",
    bearerFormat: "JWT",
    description: "A token that `npm start` prints, or one of `npm run token -- --sub USER`.",
  });
  const contract = JSON.stringify(
    app.getOpenAPI31Document({
      openapi: "3.1.0",
      info: {
        title: TITLE,
        version: "1",
        description: "Book tickets. Errors are problem documents (RFC 9457).",
      },
    }),
  );
  const files: Record<string, () => Promise<ServedFile>> = {
    "/openapi.json": once(async () => servedFile(Buffer.from(contract), "application/json")),
    "/docs": once(async () => servedFile(Buffer.from(PAGE), "text/html")),
    "/docs/start.js": once(async () => servedFile(Buffer.from(SCRIPT), "text/javascript")),
    "/docs/swagger-ui.css": once(async () => servedFile(await fileOfSwaggerUi("swagger-ui.css"), "text/css")),
    "/docs/swagger-ui-bundle.js": once(async () =>
      servedFile(await fileOfSwaggerUi("swagger-ui-bundle.js"), "text/javascript"),
    ),
  };
  for (const [path, file] of Object.entries(files))
    app.get(path, async (context) => answerFile(await file(), context));
  app.get("/", (context) => {
    const { accept = "" } = context.env.incoming.headers;
    // A program that asks for `/` is lost; a person is led to something to read.
    if (!accept.includes("text/html")) return context.notFound();
    const headers = { location: "/docs", "x-request-id": requestIdOf(context.env.incoming) };
    return new Response(null, { status: 302, headers });
  });
}

interface ServedFile {
  readonly type: string;
  readonly plain: Uint8Array<ArrayBuffer>;
  readonly zipped: Uint8Array<ArrayBuffer>;
  /** Of its content; the zipped form has one of its own (RFC 9110 §8.8.3.3). */
  readonly tag: string;
}

async function servedFile(plain: Buffer, type: string): Promise<ServedFile> {
  const tag = createHash("sha256").update(plain).digest("base64url").slice(0, 16);
  const zipped = await promisify(gzip)(plain);
  return {
    type: `${type}; charset=utf-8`,
    plain: new Uint8Array(plain),
    zipped: new Uint8Array(zipped),
    tag,
  };
}

/** Read and zipped when somebody first asks for it. */
function once<T>(make: () => Promise<T>): () => Promise<T> {
  let made: Promise<T> | undefined;
  return () => (made ??= make());
}

async function fileOfSwaggerUi(name: string): Promise<Buffer> {
  return readFile(createRequire(import.meta.url).resolve(`swagger-ui-dist/${name}`));
}

function answerFile({ type, plain, zipped, tag }: ServedFile, { env }: Context<HttpEnv>): Response {
  const { headers: asked } = env.incoming;
  const isZipped = /(?:^|[,\s])gzip(?!\s*;\s*q=0(?:\.0*)?\s*(?:,|$))/i.test(
    String(asked["accept-encoding"] ?? ""),
  );
  const etag = isZipped ? `"${tag}-gzip"` : `"${tag}"`;
  const headers: Record<string, string> = {
    etag,
    vary: "accept-encoding",
    "cache-control": "public, max-age=60",
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-request-id": requestIdOf(env.incoming),
  };
  if (asked["if-none-match"]?.split(",").some((known) => known.trim() === etag) === true)
    return new Response(null, { status: 304, headers });
  headers["content-type"] = type;
  if (isZipped) headers["content-encoding"] = "gzip";
  return new Response(isZipped ? zipped : plain, { status: 200, headers });
}

/** Nothing is loaded from elsewhere. The page shows images that are in its style sheet, and styles some of its parts itself. */
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
