/** What becomes no request: bytes that are not HTTP, headers beyond the limit, requests that do not arrive in time. */
import { type Server, STATUS_CODES } from "node:http";
import type { Socket } from "node:net";
import { Problem, PROBLEMS } from "./problems.ts";
import { answersOn, HEADERS_MAX_BYTES } from "../../shared/process/http-server.ts";
import { problemDocument, problemHeaders } from "./answers.ts";
import { newRequestId } from "./request-id.ts";

/** How long a client has to hang up after it was refused. */
const GOODBYE_MS = 1_000;

/** Has the server answer them with a problem document and hang up; `refused` counts. */
export function answerWhatIsNotHttp(server: Server, refused: () => void): void {
  server.on("clientError", (error: NodeJS.ErrnoException, stream) => {
    const socket = stream as Socket;
    refused();
    const [answer, before] = answersOn(socket);
    // A request whose rest is broken has no answer yet and will have none; what stands before it may have one.
    const isItsRest = answer !== undefined && !answer.req.complete && !answer.headersSent;
    const underWay = isItsRest ? before : answer;
    // Never into an answer that is under way: whoever waits for it would be told of another request's fault.
    if (underWay === undefined || underWay.writableFinished || underWay.destroyed) refuse(error, socket);
    else underWay.once("close", () => socket.destroySoon());
  });
  // Node.js would answer these two by itself, without a problem document.
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
  // A client that does not hang up in turn is cut off; at once, and it might not see the answer.
  setTimeout(() => socket.destroy(), GOODBYE_MS).unref();
  socket.end(`HTTP/1.1 ${status} ${STATUS_CODES[status]}\r\n${head.join("")}\r\n${body}`);
}

function reasonOf({ code }: NodeJS.ErrnoException): string {
  if (code === "HPE_HEADER_OVERFLOW")
    return `The request's headers have more than ${HEADERS_MAX_BYTES} bytes.`;
  if (code === "ERR_HTTP_REQUEST_TIMEOUT") return "The request did not arrive in time.";
  return "The request is not valid HTTP.";
}
