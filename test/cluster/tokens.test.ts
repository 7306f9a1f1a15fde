import { exportJWK, exportSPKI, generateKeyPair, SignJWT } from "jose";
import { expect, test } from "vitest";
import { systemClock } from "../../shared/process/clock.ts";
import { TokenVerifier } from "../../router/callers/tokens.ts";
import { stoppedClock } from "../support/clock.ts";
import { startTestCluster, tokenOf } from "../support/running-cluster.ts";
import { serveKeys } from "../support/key-set.ts";

test("S1: with a key set, RS256, ES256 and EdDSA are taken, and a public key is no shared secret", async () => {
  const pairs = new Map<string, Awaited<ReturnType<typeof generateKeyPair>>>();
  for (const alg of ["RS256", "ES256", "EdDSA"])
    pairs.set(alg, await generateKeyPair(alg, { extractable: true }));
  const keys = await Promise.all(
    [...pairs].map(async ([alg, { publicKey }]) => ({ ...(await exportJWK(publicKey)), kid: alg, alg })),
  );
  await using jwks = await serveKeys(keys);
  const AUTH_JWKS_URL = jwks.url;
  await using cluster = await startTestCluster({ shards: 1, routers: 0 });
  await cluster.addRouter({
    AUTH_JWT_SECRET: "",
    AUTH_JWKS_URL,
    AUTH_JWT_ISSUER: "the-issuer",
    AUTH_JWT_AUDIENCE: "onsale",
  });
  const client = cluster.client();

  const sign = async (alg: string, claims: Record<string, unknown> = {}, key?: Uint8Array) => {
    const pair = pairs.get(alg);
    return new SignJWT({ sub: "o", role: "organizer", iss: "the-issuer", aud: "onsale", ...claims })
      .setProtectedHeader({ alg, kid: alg })
      .setExpirationTime("5m")
      .sign(key ?? pair?.privateKey ?? new Uint8Array());
  };
  const status = async (token: string) =>
    (
      await client.send("POST", "/v1/events", {
        headers: { authorization: `Bearer ${token}` },
        body: { name: "x", startsAt: "2030-01-01T00:00:00Z", totalTickets: 1 },
      })
    ).status;

  for (const alg of pairs.keys()) expect([alg, await status(await sign(alg))]).toEqual([alg, 201]);
  expect(await status(await sign("ES256", { iss: "somebody" }))).toBe(401);
  expect(await status(await sign("ES256", { aud: "other" }))).toBe(401);
  expect(await status(await tokenOf("o", "organizer"))).toBe(401);
  const rsa = pairs.get("RS256");
  const spki = rsa === undefined ? "" : await exportSPKI(rsa.publicKey);
  expect(await status(await sign("HS256", {}, new TextEncoder().encode(spki)))).toBe(401);
});

test("S1: a token that a public key verified is remembered for 30 seconds, and never past its end", async () => {
  const clock = stoppedClock(Date.now());
  const { publicKey, privateKey } = await generateKeyPair("ES256", { extractable: true });
  await using jwks = await serveKeys([{ ...(await exportJWK(publicKey)), kid: "k", alg: "ES256" }]);
  const verifier = new TokenVerifier({ keys: { jwksUrl: jwks.url } }, clock);
  const sign = async (seconds: number) =>
    new SignJWT({ sub: "u" })
      .setProtectedHeader({ alg: "ES256", kid: "k" })
      .setExpirationTime(Math.floor(clock.time / 1000) + seconds)
      .sign(privateKey);
  const [long, short] = [await sign(600), await sign(10)];
  const caller = expect.objectContaining({ userId: "u", role: "buyer" });
  // What is remembered is said at once; what must be verified is promised.
  for (const token of [long, short]) {
    expect(verifier.verify(token)).toBeInstanceOf(Promise);
    expect(await verifier.verify(token)).toEqual(caller);
    expect(verifier.verify(token)).toEqual(caller);
  }
  clock.time += 10_000;
  expect(verifier.verify(short)).toBeInstanceOf(Promise);
  expect(verifier.verify(long)).toEqual(caller);
  clock.time += 20_000;
  expect(verifier.verify(long)).toBeInstanceOf(Promise);
});

test("S1 F2: however long tokens are, those that are remembered take 8 MiB at most", async () => {
  const { publicKey, privateKey } = await generateKeyPair("EdDSA", { extractable: true });
  await using jwks = await serveKeys([{ ...(await exportJWK(publicKey)), kid: "k", alg: "EdDSA" }]);
  const verifier = new TokenVerifier({ keys: { jwksUrl: jwks.url } }, systemClock);
  const long = await Promise.all(
    Array.from({ length: 1_000 }, async (_, index) =>
      new SignJWT({ sub: `u-${index}`, padding: "x".repeat(7_500) })
        .setProtectedHeader({ alg: "EdDSA", kid: "k" })
        .setExpirationTime("5m")
        .sign(privateKey),
    ),
  );
  expect(long[0]?.length).toBeGreaterThan(10_000);
  for (const token of long) expect(await verifier.verify(token)).toMatchObject({ role: "buyer" });

  // From the newest back: looking at a token that is not remembered verifies it, and then it is.
  const remembered = long.toReversed().findIndex((token) => verifier.verify(token) instanceof Promise);
  expect(remembered).toBeGreaterThan(600);
  expect(remembered).toBeLessThan((8 * 1024 * 1024) / 10_000);
});
