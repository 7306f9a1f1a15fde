/** Refuses what never becomes a request: bytes that are not HTTP, headers that are too long, requests that come too slowly. */
import { type Server, STATUS_CODES } from "node:http";
import type { Socket } from "node:net";
import { HEADERS_MAX_BYTES, responsesOn } from "../../shared/process/http-server.ts";
import { Problem, PROBLEMS } from "./problems.ts";
import { newRequestId } from "./request-id.ts";
import { problemDocument, problemHeaders } from "./responses.ts";

/** How long a refused client has to hang up. */
const GOODBYE_MS = 1_000;

/** Makes the server send a problem document and hang up. Calls `refused` for each, so that the caller can count. */
export function answerWhatIsNotHttp(server: Server, refused: () => void): void {
  server.on("clientError", (error: NodeJS.ErrnoException, stream) => {
    const socket = stream as Socket;
    refused();
    const [newest, before] = responsesOn(socket);
    // When the rest of a request is broken, its own response will never come. Only an earlier response may be under way.
    const isBroken = newest !== undefined && !newest.req.complete && !newest.headersSent;
    const underWay = isBroken ? before : newest;
    // Waits for that response: a problem in the middle of it would look like a part of it.
    if (underWay === undefined || underWay.writableFinished || underWay.destroyed) refuse(error, socket);
    else underWay.once("close", () => socket.destroySoon());
  });
  // Node.js would answer these two itself, without a problem document.
  server.on("checkExpectation", (request, response) => server.emit("request", request, response));
  server.on("connect", (_request, socket) => {
    refused();
    refuse(new Error("CONNECT"), socket as Socket);
  });
}

function refuse(error: NodeJS.ErrnoException, socket: Socket): void {
  if (error.code === "ECONNRESET" || !socket.writable) {
    socket.destroy();
    return;
  }
  const problem = new Problem("invalid_request", reasonOf(error));
  const requestId = newRequestId();
  const body = JSON.stringify(problemDocument(problem, requestId));
  const { status } = PROBLEMS[problem.code];
  const headers = {
    ...problemHeaders(problem.code),
    "x-request-id": requestId,
    "content-length": String(Buffer.byteLength(body)),
    connection: "close",
  };
  const head = Object.entries(headers).map(([name, value]) => `${name}: ${value}\r\n`);
  // Destroying the socket at once could take the response from the client.
  setTimeout(() => socket.destroy(), GOODBYE_MS).unref();
  socket.end(`HTTP/1.1 ${status} ${STATUS_CODES[status]}\r\n${head.join("")}\r\n${body}`);
}

function reasonOf({ code }: NodeJS.ErrnoException): string {
  if (code === "HPE_HEADER_OVERFLOW")
    return `The request's headers have more than ${HEADERS_MAX_BYTES} bytes.`;
  if (code === "ERR_HTTP_REQUEST_TIMEOUT") return "The request did not arrive in time.";
  return "The request is not valid HTTP.";
}
