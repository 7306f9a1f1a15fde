/**
 * The floor that reads are compared with: a bare `node:http` server that answers the same headers and bytes to everything
 * and does nothing else. Gets its answer over IPC, says its port, ends with its parent.
 */
import { createServer, type OutgoingHttpHeaders } from "node:http";
import type { AddressInfo } from "node:net";

export interface BareAnswer {
  readonly headers: OutgoingHttpHeaders;
  readonly body: string;
}

process.once("disconnect", () => process.exit(0));
process.once("message", ({ headers, body }: BareAnswer) => {
  const bytes = Buffer.from(body);
  const server = createServer((_request, response) => response.writeHead(200, headers).end(bytes));
  server.listen(0, "127.0.0.1", () => process.send?.((server.address() as AddressInfo).port));
});
