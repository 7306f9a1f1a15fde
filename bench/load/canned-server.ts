/**
 * The cheapest server that a load generator can be measured against: it takes whatever arrives on a
 * connection for one request, parses nothing, and answers the same bytes. Gets them over IPC, says its port, ends with its parent.
 */
import { type AddressInfo, createServer } from "node:net";

process.once("disconnect", () => process.exit(0));
process.once("message", (answer: string) => {
  const bytes = Buffer.from(answer, "latin1");
  const server = createServer({ noDelay: true }, (socket) => {
    socket.on("data", () => socket.write(bytes));
    socket.on("error", () => undefined); // the generator has closed it
  });
  server.listen(0, "127.0.0.1", () => process.send?.((server.address() as AddressInfo).port));
});
