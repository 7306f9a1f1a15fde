/**
 * The network between routers and nodes, below undici: a pool's `dispatch` gives its request to this network instead of a socket.
 * Messages overtake each other, get lost, come twice, or come late, as the troubles of the moment say.
 */
import { createRequire } from "node:module";
import type { Server } from "node:http";
import { type Dispatcher, errors, Pool } from "undici";
import { give } from "./http.ts";
import { type Process, self, world } from "./world.ts";

// undici tells nobody else where a pool leads to.
const { kUrl } = createRequire(import.meta.url)("undici/lib/core/symbols.js") as { readonly kUrl: symbol };

const CONNECT_TIMEOUT_MS = 1_000;

/** What is wrong between some routers and some nodes. Probabilities are from 0 to 1. */
export interface Trouble {
  /** Names of processes; without one, all. */
  readonly router?: string;
  readonly node?: string;
  /** Nothing gets through. */
  readonly cut?: boolean;
  /** The node never sees the call. */
  readonly lost?: number;
  /** The node sees the call, and its answer is lost. */
  readonly unanswered?: number;
  /** The connection breaks while the node works. */
  readonly broken?: number;
  /** The node sees the call twice. */
  readonly twice?: number;
  readonly slowMs?: number;
}

interface Host {
  readonly process: Process;
  readonly server: Server;
}

interface OpenCall {
  readonly host: Host;
  readonly reset: () => void;
}

export interface CallObserver {
  called(call: { router: Process; node: Process; path: string; body: string; twice: boolean }): void;
}

export class Network {
  readonly troubles = new Set<Trouble>();
  readonly #hosts = new Map<string, Host>();
  readonly #open = new Set<OpenCall>();
  readonly #observer: CallObserver;

  constructor(observer: CallObserver) {
    this.#observer = observer;
  }

  listen(url: string, host: Host): void {
    this.#hosts.set(url, host);
  }

  /** What a killed process leaves: nobody listens, and its connections are reset. */
  killed(process: Process): void {
    for (const [url, host] of this.#hosts) if (host.process === process) this.#hosts.delete(url);
    for (const call of this.#open) {
      if (call.host.process !== process) continue;
      this.#open.delete(call);
      call.reset();
    }
  }

  /** Carries one call of the router that is running. */
  dispatch(url: string, options: Dispatcher.DispatchOptions, handler: Dispatcher.DispatchHandler): void {
    const router = self();
    const net = world();
    let over = false;
    let hangUp: (() => void) | undefined;
    const fail = (error: Error): void => {
      if (over) return;
      over = true;
      handler.onResponseError?.(controller, error);
    };
    const controller: Dispatcher.DispatchController = {
      aborted: false,
      paused: false,
      reason: null,
      rawHeaders: null,
      rawTrailers: null,
      pause: () => undefined,
      resume: () => undefined,
      abort: (reason: Error) => {
        hangUp?.();
        fail(reason);
      },
    };
    handler.onRequestStart?.(controller, {});
    if (over) return;

    const path = options.path;
    const body = typeof options.body === "string" ? options.body : undefined;
    const host = this.#hosts.get(url);
    const trouble = this.#between(router, host?.process);
    const later = (run: () => void, ms = this.#way(trouble)): void => void net.after(ms, run, router);
    if (trouble.cut === true || (host === undefined && net.chance(0.1))) {
      net.note(`${path} to ${url} meets silence`);
      if (net.chance(0.5))
        later(() => fail(new errors.ConnectTimeoutError("no connection")), CONNECT_TIMEOUT_MS);
      return;
    }
    if (host === undefined) return later(() => fail(withCode("ECONNREFUSED")));
    if (net.chance(trouble.lost ?? 0)) {
      net.note(`${path} to ${host.process.name} is lost`);
      if (net.chance(0.7)) later(() => fail(withCode("ECONNRESET")));
      return;
    }
    const twice = net.chance(trouble.twice ?? 0);
    this.#observer.called({ router, node: host.process, path, body: body ?? "", twice });

    const call: OpenCall = { host, reset: () => later(() => fail(withCode("ECONNRESET"))) };
    this.#open.add(call);
    const headers = options.headers as Record<string, string>;
    const request = { method: options.method, path, headers, body };
    const hearNothing = { head: () => undefined, data: () => undefined, end: () => undefined };
    if (twice) {
      net.note(`${path} to ${host.process.name} comes twice`);
      net.after(net.between(0, 400), () => void give(host.server, request, hearNothing), host.process);
    }
    let lateMs = 0;
    if (net.chance(trouble.broken ?? 0)) {
      // What was sent may arrive long after the router has given it up.
      if (net.chance(0.5)) lateMs = net.between(0, 1_500);
      net.note(
        `the connection of ${router.name} breaks during ${path}, which arrives ${lateMs.toFixed()} ms late`,
      );
      this.#open.delete(call);
      later(() => fail(withCode("ECONNRESET")), net.between(0.5, 10));
    }
    let arrivesAt = net.now;
    let silent = false;
    /** In order, like everything on one connection. */
    const back = (run: () => void): void => {
      if (silent) return;
      if (net.chance(trouble.unanswered ?? 0)) {
        net.note(`the answer to ${path} of ${router.name} is lost`);
        silent = true;
        this.#open.delete(call);
        if (net.chance(0.7)) call.reset();
        return;
      }
      arrivesAt = Math.max(arrivesAt, net.now + this.#way(trouble));
      later(() => {
        if (!over) run();
      }, arrivesAt - net.now);
    };
    const hearer = {
      head: (status: number, answer: Readonly<Record<string, string>>) =>
        back(() => handler.onResponseStart?.(controller, status, answer)),
      data: (piece: Buffer) => back(() => handler.onResponseData?.(controller, piece)),
      end: () => {
        this.#open.delete(call);
        back(() => {
          over = true;
          handler.onResponseEnd?.(controller, {});
        });
      },
    };
    net.after(
      this.#way(trouble) + lateMs,
      () => {
        const close = give(host.server, request, hearer);
        hangUp = () => {
          this.#open.delete(call);
          net.after(0.2, close, host.process);
        };
      },
      host.process,
    );
  }

  #between(router: Process, node: Process | undefined): Trouble {
    const met = [...this.troubles].filter(
      (trouble) =>
        (trouble.router ?? router.name) === router.name && (trouble.node ?? node?.name) === node?.name,
    );
    return Object.assign({}, ...met) as Trouble;
  }

  #way({ slowMs = 0 }: Trouble): number {
    return world().between(0.1, 1) + world().between(0, slowMs);
  }
}

function withCode(code: string): Error {
  return Object.assign(new Error(code), { code });
}

let current: Network | undefined;

/** From now on pools use this network. */
export function useNetwork(network: Network): void {
  current = network;
}

Pool.prototype.dispatch = function (this: Pool, options, handler): boolean {
  if (current === undefined) throw new Error("there is no network outside of a run");
  const { origin } = (this as unknown as Readonly<Record<symbol, URL>>)[kUrl] as URL;
  current.dispatch(origin, options, handler);
  return true;
};
