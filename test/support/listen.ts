/** Servers of tests, HTTP or plain TCP, each on a free port of 127.0.0.1. */
import { once } from "node:events";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo, Server, Socket } from "node:net";

export type Listening = Awaited<ReturnType<typeof listen>>;

/** Hangs up on everybody when disposed. */
export async function listen(server: Server) {
  const sockets = new Set<Socket>();
  server.on("connection", (socket: Socket) => {
    sockets.add(socket.on("error", () => undefined));
    socket.on("close", () => sockets.delete(socket));
  });
  await once(server.listen(0, "127.0.0.1"), "listening");
  const { port } = server.address() as AddressInfo;
  return {
    port,
    url: `http://127.0.0.1:${port}`,
    async [Symbol.asyncDispose]() {
      for (const socket of sockets) socket.destroy();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

export async function serve(answer: (request: IncomingMessage, response: ServerResponse) => unknown) {
  return listen(createServer((request, response) => void answer(request, response)));
}
