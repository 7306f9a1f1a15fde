/** The network between two parts of a cluster: a TCP proxy whose weather changes while connections are open. */
import { once } from "node:events";
import { type AddressInfo, connect, createServer, type Server, type Socket } from "node:net";

export const WEATHERS = {
  clear: "everything passes",
  cut: "connections break, and none can be made",
  slow: "200 ms for the way there and back",
  lossy: "5 % of the pieces are lost and sent again, which takes 250 ms",
  "half-open": "nothing passes, no connection breaks, and those that lost something stay silent for ever",
  resets: "connections are reset again and again",
  deaf: "every tenth answer is lost together with its connection: what was asked for is done",
} as const;
export type Weather = keyof typeof WEATHERS;

const ONE_WAY_MS = 100;
const RESENT_MS = 250;
const LOST_SHARE = 0.05;
const DEAF_SHARE = 0.1;
const RESETS_EVERY_MS = 300;

export class Link implements AsyncDisposable {
  readonly port: number;
  readonly #server: Server;
  readonly #targetPort: number;
  readonly #random: () => number;
  readonly #open = new Set<readonly [Socket, Socket]>();
  #weather: Weather = "clear";
  #resets: NodeJS.Timeout | undefined;

  private constructor(server: Server, targetPort: number, random: () => number) {
    this.#server = server;
    this.port = (server.address() as AddressInfo).port;
    this.#targetPort = targetPort;
    this.#random = random;
    server.on("connection", (client) => this.#connect(client));
  }

  /** A link to a port of this machine, on a port of its own. */
  static async to(targetPort: number, random: () => number): Promise<Link> {
    const server = createServer({ noDelay: true });
    server.listen(0, "127.0.0.1");
    await once(server, "listening");
    return new Link(server, targetPort, random);
  }

  set weather(weather: Weather) {
    this.#weather = weather;
    clearInterval(this.#resets);
    if (weather === "cut") this.#reset(1);
    if (weather === "resets") this.#resets = setInterval(() => this.#reset(0.5), RESETS_EVERY_MS);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.weather = "cut";
    this.#server.close();
    await once(this.#server, "close");
  }

  #reset(share: number): void {
    for (const sockets of this.#open) {
      if (this.#random() < share) for (const socket of sockets) socket.resetAndDestroy();
    }
  }

  #connect(client: Socket): void {
    if (this.#weather === "cut") return void client.resetAndDestroy();
    const server = connect({ port: this.#targetPort, host: "127.0.0.1", noDelay: true });
    const sockets = [client, server] as const;
    this.#open.add(sockets);
    for (const socket of sockets) {
      socket.on("error", () => undefined);
      socket.on("close", () => {
        this.#open.delete(sockets);
        for (const each of sockets) each.destroy();
      });
    }
    const link = { isSilent: false };
    this.#pass(client, server, link, false);
    this.#pass(server, client, link, true);
    return undefined;
  }

  #pass(from: Socket, to: Socket, link: { isSilent: boolean }, isAnswer: boolean): void {
    let arrivesAt = 0;
    from.on("data", (piece: Buffer) => {
      const weather = this.#weather;
      link.isSilent ||= weather === "half-open";
      if (link.isSilent) return;
      if (weather === "deaf" && isAnswer && this.#random() < DEAF_SHARE) {
        for (const socket of [from, to]) socket.resetAndDestroy();
        return;
      }
      const delayMs =
        weather === "slow" ? ONE_WAY_MS : weather === "lossy" && this.#random() < LOST_SHARE ? RESENT_MS : 0;
      // No piece overtakes the one before it.
      arrivesAt = Math.max(arrivesAt, performance.now() + delayMs);
      const waitMs = arrivesAt - performance.now();
      if (waitMs <= 0) to.write(piece);
      else setTimeout(() => to.destroyed || to.write(piece), waitMs);
    });
  }
}
