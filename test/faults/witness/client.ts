/** Sends requests to the cluster, and writes each down before it is sent and its answer after that has arrived. */
import { z } from "zod";
import { mintToken, type Role } from "../../../router/callers/tokens.ts";
import { type Answer, answerContent, type Sent, type WitnessLog } from "./log.ts";

/** What is asked; when and of whom is added when it is sent. */
export type Request = Omit<Sent, "type" | "id" | "at" | "router">;
export type Content = Omit<Answer, "type" | "id" | "at">;

/** Beyond the deadline of every command (ARCHITECTURE.md, bounds). */
const ANSWER_MAX_MS = 8_000;
const HOLD_SECONDS = 5;
/** About every so many requests one is the last on its connection: a router that takes no new ones cannot hide behind the old. */
const REQUESTS_PER_CONNECTION = 20;
const TOKEN_TTL_SECONDS = 24 * 3600;
const TOKENS_MAX = 10_000;

export class Client {
  readonly urls: readonly string[];
  readonly #secret: string;
  readonly #log: WitnessLog;
  readonly #tokens = new Map<string, Promise<string>>();
  #requests = 0;
  #sent = 0;

  /** `secret` signs tokens that the cluster takes. */
  constructor(urls: readonly string[], secret: string, log: WitnessLog) {
    this.urls = urls;
    this.#secret = secret;
    this.#log = log;
  }

  /** Sends it to the router with this number. Whatever happens is an answer. */
  async ask(request: Request, router: number): Promise<Answer> {
    const id = (this.#requests += 1);
    this.#log.write({ type: "sent", id, at: now(), router, ...request });
    const content = await this.#send(request, this.urls[router] ?? "");
    const answer: Answer = { type: "answer", id, at: now(), ...content };
    this.#log.write(answer);
    return answer;
  }

  /** Not written down: an event that nobody knows has no bookings. */
  async createEvent(router: number, organizer: string, body: object): Promise<Content> {
    return this.#fetch("POST", `${this.urls[router]}/v1/events`, {
      user: organizer,
      role: "organizer",
      body,
    });
  }

  async #send(request: Request, url: string): Promise<Content> {
    const { operation, event, user, quantity, key, booking, receipt } = request;
    const isAsync = request.async === true;
    const ofEvent = `${url}/v1/events/${event}`;
    const ofBooking = `${url}/v1/bookings/${booking}`;
    switch (operation) {
      case "read":
        return this.#fetch("GET", ofEvent, {});
      case "show":
        return this.#fetch("GET", ofBooking, { user });
      case "follow":
        return this.#fetch("GET", `${url}/v1/booking-requests/${receipt}`, { user });
      case "cancel":
        return this.#fetch("DELETE", ofBooking, { user });
      case "confirm":
        return this.#fetch("POST", `${ofBooking}/confirm`, { user });
      case "book":
        return this.#fetch("POST", `${ofEvent}/bookings`, { user, key, isAsync, body: { quantity } });
      case "hold":
        return this.#fetch("POST", `${ofEvent}/holds`, {
          user,
          key,
          isAsync,
          body: { quantity, ttlSeconds: HOLD_SECONDS },
        });
    }
  }

  async #fetch(
    method: string,
    url: string,
    {
      user,
      role = "buyer",
      key,
      isAsync = false,
      body,
    }: {
      user?: string | undefined;
      role?: Role;
      key?: string | undefined;
      isAsync?: boolean;
      body?: object;
    },
  ): Promise<Content> {
    this.#sent += 1;
    const headers = {
      ...(this.#sent % REQUESTS_PER_CONNECTION === 0 ? { connection: "close" } : {}),
      ...(user === undefined ? {} : { authorization: `Bearer ${await this.#tokenOf(user, role)}` }),
      ...(key === undefined ? {} : { "idempotency-key": key }),
      ...(isAsync ? { prefer: "respond-async" } : {}),
      ...(body === undefined ? {} : { "content-type": "application/json" }),
    };
    try {
      const response = await fetch(url, {
        method,
        headers,
        ...(body === undefined ? {} : { body: JSON.stringify(body) }),
        signal: AbortSignal.timeout(ANSWER_MAX_MS),
      });
      return { status: response.status, ...contentOf(response.status, await response.text()) };
    } catch (error) {
      return { status: null, code: reasonOf(error) };
    }
  }

  #tokenOf(user: string, role: Role): Promise<string> {
    const known = this.#tokens.get(user);
    if (known !== undefined) return known;
    if (this.#tokens.size >= TOKENS_MAX) this.#tokens.clear();
    const token = mintToken({ secret: this.#secret, sub: user, role, ttlSeconds: TOKEN_TTL_SECONDS });
    this.#tokens.set(user, token);
    return token;
  }
}

/** Milliseconds since 1970, by a clock that never jumps while the process lives. */
export const now = (): number => performance.timeOrigin + performance.now();

const problemBody = z.object({ code: z.string() });
const { booking: bookingBody, request: requestBody, event: eventBody } = answerContent;

function contentOf(status: number, text: string): Omit<Content, "status"> {
  let body: unknown;
  try {
    body = JSON.parse(text);
  } catch {
    return { code: `no JSON: ${text.slice(0, 100)}` };
  }
  if (status >= 400) return { code: problemBody.safeParse(body).data?.code ?? "no problem document" };
  const booking = bookingBody.safeParse(body).data;
  if (booking !== undefined) return { booking };
  const request = requestBody.safeParse(body).data;
  if (request !== undefined) return { request };
  const event = eventBody.safeParse(body).data;
  return event === undefined ? { code: "no booking, request or event" } : { event };
}

function reasonOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const { cause } = error;
  const said =
    cause instanceof Error ? ((cause as NodeJS.ErrnoException).code ?? cause.message) : error.message;
  return said.slice(0, 100);
}
