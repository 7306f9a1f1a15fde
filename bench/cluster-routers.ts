/** More routers in front of the same shards, as processes run exactly as the embedded cluster runs its own. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { setTimeout as sleep } from "node:timers/promises";
import { chooseFreePort } from "../deploy/embedded/ports.ts";
import { roleSpec } from "../deploy/embedded/roles.ts";
import { type ClusterFile, type RouterAddress, readState } from "./cluster-file.ts";

/** Starts one and waits until it is ready. Throws, with what it said, when it does not become ready. */
export async function startRouter(
  name: string,
  options: {
    dataDir: string;
    file: ClusterFile;
    secret: string;
    signal: AbortSignal;
    env?: Readonly<Record<string, string>>;
  },
): Promise<RouterAddress & AsyncDisposable> {
  const { dataDir, file, secret, signal, env } = options;
  const taken = new Set<number>();
  const [port, adminPort] = [await chooseFreePort(taken), await chooseFreePort(taken)];
  const [url, adminUrl] = [`http://127.0.0.1:${port}`, `http://127.0.0.1:${adminPort}`];
  const spec = roleSpec("router", name, adminUrl, {
    ...process.env,
    LOG_LEVEL: "warn",
    INTERNAL_TOKEN: readState(dataDir).internalToken,
    REDIS_URL: file.redisUrl ?? "",
    HOST: "127.0.0.1",
    PORT: String(port),
    ADMIN_PORT: String(adminPort),
    NODE_URLS: file.shards.map(({ nodeUrl }) => nodeUrl).join(","),
    AUTH_JWT_SECRET: secret,
    ...env,
  });
  // A process group of its own, like the cluster's: Ctrl-C is for the benchmark. It ends when our end of the channel does.
  const child = spawn(spec.program, spec.args, {
    env: { ...spec.env },
    detached: true,
    stdio: ["ignore", "pipe", "pipe", "ipc"],
  });
  const exited = once(child, "exit");
  const { pid, stdout, stderr } = child;
  if (pid === undefined || stdout === null || stderr === null) throw new Error(`${name} cannot be started`);
  let output = "";
  for (const stream of [stdout, stderr])
    stream.on("data", (piece: Buffer) => (output = (output + piece.toString()).slice(-20_000)));
  const stop = async () => {
    child.kill(spec.stopSignal);
    await exited; // a role that hangs ends itself (shared/process/lifecycle.ts)
  };
  try {
    const deadline = performance.now() + spec.readyMaxMs;
    while (!(await spec.isReady(pid))) {
      signal.throwIfAborted();
      if (child.exitCode !== null || child.signalCode !== null || performance.now() > deadline)
        throw new Error(`${name} did not start:\n${output}`);
      await sleep(25);
    }
    return { url, adminUrl, pid, [Symbol.asyncDispose]: stop };
  } catch (error) {
    await stop();
    throw error;
  }
}
