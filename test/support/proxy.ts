/** TCP proxies that a test puts between two parts to break their connections at chosen moments. */
import { connect, createServer, type Socket } from "node:net";
import { listen } from "./listen.ts";

/** `link` says what passes between a client and the connection to the target that was made for it. */
export async function startRelay(url: string, link: (client: Socket, target: Socket) => void) {
  const { hostname, port } = new URL(url);
  const server = createServer({ noDelay: true }, (client) => {
    const target = connect({ port: Number(port), host: hostname, noDelay: true });
    target.on("error", () => undefined);
    link(client, target);
  });
  const listening = await listen(server);
  const through = new URL(url);
  through.hostname = "127.0.0.1";
  through.port = String(listening.port);
  return { ...listening, url: through.href };
}

export interface Proxy extends AsyncDisposable {
  readonly port: number;
  /** Decides for each piece of data that comes back from the target whether it passes, or both connections are cut. */
  onAnswer: (data: Buffer) => "pass" | "cut";
}

export async function startProxy(targetPort: number): Promise<Proxy> {
  const relay = await startRelay(`tcp://127.0.0.1:${targetPort}`, (client, target) => {
    client.pipe(target);
    client.on("close", () => target.destroy());
    target.on("close", () => client.destroy());
    target.on("data", (data: Buffer) =>
      proxy.onAnswer(data) === "pass" ? client.write(data) : client.destroy(),
    );
  });
  const proxy: Proxy = { ...relay, onAnswer: () => "pass" };
  return proxy;
}
