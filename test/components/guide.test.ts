import { once } from "node:events";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { expect, test } from "vitest";
import type { DataDir } from "../../deploy/embedded/data-dir.ts";
import { demoEvent } from "../../deploy/embedded/guide.ts";

test.each([
  { what: "sells", status: 200, hours: 1, id: "kept" },
  { what: "is over", status: 200, hours: -1, id: "made" },
  { what: "does not exist", status: 404, hours: undefined, id: "made" },
  { what: "cannot be read", status: 503, hours: undefined, id: "kept" },
])("E1: a demo event that $what: the one that is printed is $id", async ({ status, hours, id }) => {
  const salesEndAt = hours && new Date(Date.now() + hours * 3_600_000).toISOString();
  const router = createServer(({ method }, response) => {
    response.statusCode = method === "POST" ? 201 : status;
    response.end(JSON.stringify(method === "POST" ? { id: "made" } : { salesEndAt }));
  }).listen(0, "127.0.0.1");
  await once(router, "listening");
  const dataDir = { state: { demoEventId: "kept" }, saveState: () => undefined } as unknown as DataDir;
  const routerUrl = `http://127.0.0.1:${(router.address() as AddressInfo).port}`;

  expect(await demoEvent({ routerUrl, secret: "s".repeat(32) }, dataDir)).toBe(id);
  expect(dataDir.state.demoEventId).toBe(id);
  router.close();
});
