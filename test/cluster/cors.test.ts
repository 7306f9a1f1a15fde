import { afterAll, beforeAll, expect, test } from "vitest";
import type { RunningRouter } from "../../router/router.ts";
import { readConfig } from "../../shared/process/config.ts";
import { routerConfig } from "../../router/config.ts";
import {
  type Client,
  INTERNAL_TOKEN,
  SECRET,
  startTestCluster,
  type TestCluster,
} from "../support/running-cluster.ts";

const SHOP = "https://shop.example";
let cluster: TestCluster;
let router: RunningRouter;
let client: Client;
beforeAll(async () => {
  cluster = await startTestCluster({ shards: 1 });
  router = await cluster.addRouter({ CORS_ORIGINS: `${SHOP}, http://localhost:3000` });
  client = cluster.client(router);
});
afterAll(async () => cluster[Symbol.asyncDispose]());

const corsOf = ({ headers }: { headers: Headers }) =>
  [...headers].filter(([name]) => name.startsWith("access-control-")).map(([name]) => name);

test("S8: a page of a named origin reads every answer, also a refusal, with its headers", async () => {
  const { id } = await client.createEvent();
  const headers = { origin: SHOP };
  for (const [method, path, status] of [
    ["GET", `/v1/events/${id}`, 200],
    ["HEAD", `/v1/events/${id}`, 200],
    ["GET", "/v1/events", 200],
    ["GET", "/openapi.json", 200],
    ["GET", "/v1/events/x", 400],
    ["POST", "/v1/events", 401],
    ["GET", "/nowhere", 404],
    ["PUT", "/v1/events", 405],
  ] as const) {
    const answer = await client.send(method, path, { headers });
    expect([path, answer.status, answer.headers.get("access-control-allow-origin")]).toEqual([
      path,
      status,
      SHOP,
    ]);
    expect(answer.headers.get("access-control-expose-headers")).toContain("etag");
    expect(answer.headers.get("vary")).toMatch(/\borigin\b/);
    expect(answer.headers.get("access-control-allow-credentials")).toBeNull();
  }
  const cached = await client.send("GET", `/v1/events/${id}`, {
    headers: { ...headers, "if-none-match": '"1"' },
  });
  expect([cached.status, cached.headers.get("access-control-allow-origin")]).toEqual([304, SHOP]);
});

test("S8: a preflight is answered without a token, for every header that a client needs", async () => {
  const preflight = async (origin: string, to = client) =>
    to.send("OPTIONS", "/v1/events/x/bookings", {
      headers: {
        origin,
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type,idempotency-key",
      },
    });
  const answer = await preflight(SHOP);
  expect(answer.status).toBe(204);
  expect(answer.headers.get("access-control-allow-origin")).toBe(SHOP);
  expect(answer.headers.get("access-control-allow-methods")).toContain("PATCH");
  for (const header of ["authorization", "content-type", "idempotency-key", "if-match", "onsale-position"])
    expect(answer.headers.get("access-control-allow-headers")).toContain(header);
  expect(answer.headers.get("x-request-id")).toBeTruthy();
  const metrics = await (await fetch(`${router.adminUrl}/metrics`)).text();
  expect(metrics).toContain('onsale_http_requests_total{route="preflight",method="OPTIONS",status="204"} 1');

  expect(corsOf(await preflight("https://other.example"))).toEqual([]);
  // Without the setting, and without the header that makes it one, it is a method that the address does not have.
  expect((await preflight(SHOP, cluster.client())).status).toBe(405);
  expect((await client.send("OPTIONS", "/v1/events", { headers: { origin: SHOP } })).status).toBe(405);
});

test("S8: other origins get nothing, and without the setting nobody does", async () => {
  for (const origin of [
    "https://shop.example.evil",
    "http://shop.example",
    "null",
    "https://shop.example:444",
  ]) {
    const answer = await client.send("GET", "/v1/events", { headers: { origin } });
    expect([origin, corsOf(answer), answer.headers.get("vary")]).toEqual([origin, [], "origin"]);
  }
  const plain = await cluster.client().send("GET", "/v1/events", { headers: { origin: SHOP } });
  expect([corsOf(plain), plain.headers.get("vary")]).toEqual([[], null]);
});

test("S8: what is no origin is refused at the start", () => {
  const settings = { NODE_URLS: "http://127.0.0.1:1", INTERNAL_TOKEN, AUTH_JWT_SECRET: SECRET };
  for (const CORS_ORIGINS of [
    "*",
    "shop.example",
    "https://shop.example/",
    "https://shop.example,,",
    "file:///x",
  ])
    expect(() => readConfig(routerConfig, { ...settings, CORS_ORIGINS })).toThrow(
      "CORS_ORIGINS: must be origins",
    );
});
