/** The door to PostgreSQL over TLS: whom it believes, and what it makes of a server that breaks off. */
import { execFileSync, spawnSync } from "node:child_process";
import { chmodSync, chownSync, copyFileSync, mkdtempSync, rmSync, statSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { type PostgresServer, startPostgresServer } from "../../deploy/embedded/postgres-server.ts";
import { Connection } from "../../shared/database/connection.ts";
import { connectTo } from "../support/databases.ts";
import { eventually } from "../support/eventually.ts";
import { listen } from "../support/listen.ts";

const canMakeCertificates = spawnSync("openssl", ["version"]).status === 0;
if (!canMakeCertificates) console.warn("SKIPPED: tests of TLS to PostgreSQL (no openssl on PATH)");

let server: PostgresServer;
let directory: string;

beforeAll(async () => {
  if (!canMakeCertificates) return;
  directory = mkdtempSync(join(tmpdir(), "onsale-tls-"));
  makeCertificate("server", "localhost");
  makeCertificate("other", "localhost");
  server = await startPostgresServer({ databases: ["tls"] });
});
afterAll(async () => {
  await server?.stop();
  if (directory !== undefined) rmSync(directory, { recursive: true, force: true });
});

test.skipIf(!canMakeCertificates)(
  "S7: TLS is spoken when the URL says so, with a server that can prove its name",
  async () => {
    using plain = connectTo(server.url("tls"));
    await expect(isEncrypted("localhost", "sslmode=require")).rejects.toThrow("does not speak TLS");
    await useCertificate(plain);

    const root = `sslrootcert=${directory}/server.pem`;
    expect(await isEncrypted("localhost", `sslmode=verify-full&${root}`)).toBe(true);
    expect(await isEncrypted("localhost", `sslmode=require&${root}`)).toBe(true);
    expect(await isEncrypted("127.0.0.1", "sslmode=no-verify")).toBe(true);
    expect(await isEncrypted("localhost", "sslmode=disable")).toBe(false);
    expect(await isEncrypted("localhost", "")).toBe(false);

    // The certificate is for localhost, its issuer is nobody that others know, and other.pem is not its issuer.
    await expect(isEncrypted("127.0.0.1", `sslmode=verify-full&${root}`)).rejects.toThrow("127.0.0.1");
    await expect(isEncrypted("localhost", "sslmode=require")).rejects.toThrow("self-signed certificate");
    await expect(
      isEncrypted("localhost", `sslmode=verify-full&sslrootcert=${directory}/other.pem`),
    ).rejects.toThrow("self-signed certificate");
  },
);

test.each([
  { what: "hangs up when it is asked for TLS", answer: "", said: "Connection terminated unexpectedly" },
  { what: "hangs up in the handshake", answer: "S", said: "disconnected before secure TLS connection" },
  { what: "says more than yes before it is behind TLS", answer: "SE", said: "does not speak TLS" },
])("S7 F1: a server that $what costs no timeout and no process", async ({ answer, said }) => {
  await using liar = await listen(createServer((socket) => socket.once("data", () => socket.end(answer))));
  using connection = new Connection({
    url: `postgres://user:password@127.0.0.1:${liar.port}/tls?sslmode=require`,
    session: {},
    statementMs: 30_000,
  });
  const began = performance.now();

  await expect(connection.run("select 1")).rejects.toThrow(said);

  expect(performance.now() - began).toBeLessThan(10_000);
  expect(connection.isClosed).toBe(true);
});

async function isEncrypted(host: string, parameters: string): Promise<boolean | undefined> {
  using connection = connectTo(`${server.url("tls").replace("127.0.0.1", host)}?${parameters}`);
  const [row] = await connection.run<{ ssl: boolean }>(
    "select ssl from pg_stat_ssl where pid = pg_backend_pid()",
  );
  return row?.ssl;
}

async function useCertificate(connection: Connection): Promise<void> {
  const { uid, gid } = statSync(server.dataDir);
  for (const file of ["server.pem", "server-key.pem"]) {
    const copy = join(server.dataDir, file);
    copyFileSync(join(directory, file), copy);
    chmodSync(copy, 0o600);
    chownSync(copy, uid, gid);
  }
  await connection.run("alter system set ssl_cert_file = 'server.pem'");
  await connection.run("alter system set ssl_key_file = 'server-key.pem'");
  await connection.run("alter system set ssl = on");
  await connection.run("select pg_reload_conf()");
  await eventually("the server speaks TLS", () =>
    isEncrypted("localhost", "sslmode=no-verify").catch(() => false),
  );
}

/** Issued by itself, for a name. */
function makeCertificate(file: string, name: string): void {
  const options = `req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=${name} -addext subjectAltName=DNS:${name}`;
  const files = ["-keyout", `${directory}/${file}-key.pem`, "-out", `${directory}/${file}.pem`];
  execFileSync("openssl", [...options.split(" "), ...files], { stdio: "pipe" });
}
