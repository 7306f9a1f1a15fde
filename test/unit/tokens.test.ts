import { createHmac, randomBytes } from "node:crypto";
import { jwtVerify, SignJWT } from "jose";
import { expect, test, vi } from "vitest";
import { systemClock } from "../../shared/process/clock.ts";
import { SharedSecret } from "../../router/callers/hs256.ts";
import { TokenVerifier } from "../../router/callers/tokens.ts";

const secret = randomBytes(32).toString("base64url");
const key = new TextEncoder().encode(secret);
const rules = { keys: { secret }, issuer: "us", audience: "tickets" };
const seconds = () => Math.floor(Date.now() / 1000);

async function sign(
  claims: Record<string, unknown> = {},
  header: Record<string, unknown> = {},
  signingKey = key,
): Promise<string> {
  const all = { sub: "ann", iss: "us", aud: "tickets", exp: seconds() + 60, ...claims };
  return new SignJWT(all).setProtectedHeader({ alg: "HS256", typ: "JWT", ...header }).sign(signingKey);
}

const encoded = (value: unknown) => Buffer.from(JSON.stringify(value)).toString("base64url");

test("S1: a shared secret lets in exactly the tokens that jose's own verification lets in", async () => {
  const good = await sign();
  const [header, claims, signature] = good.split(".") as [string, string, string];
  const tokens: Record<string, string> = {
    good,
    "a list of audiences": await sign({ aud: ["others", "tickets"] }),
    "already valid": await sign({ nbf: seconds() - 1 }),
    "no type": await sign({}, { typ: undefined }),
    expired: await sign({ exp: seconds() - 1 }),
    "without exp": await sign({ exp: undefined }),
    "exp is text": await sign({ exp: "2099" }),
    "not yet valid": await sign({ nbf: seconds() + 60 }),
    "without sub": await sign({ sub: undefined }),
    "other issuer": await sign({ iss: "them" }),
    "other audience": await sign({ aud: "others" }),
    "other key": await sign({}, {}, randomBytes(32)),
    "other algorithm, right key": await sign({}, { alg: "HS512" }, randomBytes(64)),
    "HS512 with the right secret": await sign({}, { alg: "HS512" }, Buffer.concat([key, key])),
    "no algorithm": `${encoded({ alg: "none" })}.${claims}.`,
    "no algorithm, signature kept": `${encoded({ alg: "none" })}.${claims}.${signature}`,
    "claims exchanged": `${header}.${encoded({ sub: "bob", exp: seconds() + 60 })}.${signature}`,
    "without a signature": `${header}.${claims}.`,
    "half a signature": `${header}.${claims}.${signature.slice(0, 20)}`,
    "two parts": `${header}.${claims}`,
    "four parts": `${good}.${signature}`,
    "part before": `x.${good}`,
    "no header": `.${claims}.${signature}`,
    empty: "",
    dots: "..",
  };

  for (const [name, token] of Object.entries(tokens)) {
    const expected = await jwtVerify(token, key, {
      algorithms: ["HS256"],
      requiredClaims: ["exp", "sub"],
      issuer: rules.issuer,
      audience: rules.audience,
    }).then(
      ({ payload }) => payload.sub,
      () => undefined,
    );
    const caller = await new TokenVerifier(rules, systemClock).verify(token);
    expect([name, caller?.userId]).toEqual([name, expected]);
  }
});

test("S1: an unknown critical header is refused", async () => {
  const header = encoded({ alg: "HS256", crit: ["unknown"], unknown: true });
  const claims = (await sign()).split(".")[1];
  const signature = createHmac("sha256", secret).update(`${header}.${claims}`).digest("base64url");

  expect(await new TokenVerifier(rules, systemClock).verify(`${header}.${claims}.${signature}`)).toBe(
    undefined,
  );
});

test("S1 S5: while a shared secret is exchanged, tokens of the previous one are as good, and those of the current one cost no more", async () => {
  using checking = vi.spyOn(SharedSecret.prototype, "hasSigned");
  const previousSecret = randomBytes(32).toString("base64url");
  const previousKey = new TextEncoder().encode(previousSecret);
  const verifier = new TokenVerifier({ ...rules, keys: { secret, previousSecret } }, systemClock);
  const verified = async (token: string) => {
    checking.mockClear();
    const caller = await verifier.verify(token);
    return [caller?.userId, checking.mock.calls.length];
  };

  expect(await verified(await sign())).toEqual(["ann", 1]);
  expect(await verified(await sign({}, {}, previousKey))).toEqual(["ann", 2]);
  expect(await verified(await sign({}, {}, randomBytes(32)))).toEqual([undefined, 2]);
  expect(await verified(await sign({ exp: seconds() - 1 }))).toEqual([undefined, 1]);
  expect(await verified(await sign({ exp: seconds() - 1 }, {}, previousKey))).toEqual([undefined, 2]);
  expect(await verified(await sign({ aud: "others" }, {}, previousKey))).toEqual([undefined, 2]);
  expect(await verified(await sign({ exp: undefined }, {}, previousKey))).toEqual([undefined, 2]);
  const unsigned = `${encoded({ alg: "none" })}.${encoded({ sub: "ann", exp: seconds() + 60 })}.`;
  expect(await verified(unsigned)).toEqual([undefined, 0]);
});

test("S1: a shared secret of any length signs as node:crypto's own HMAC does", () => {
  for (const bytes of [0, 1, 31, 32, 55, 63, 64, 65, 128, 1_000]) {
    const shared = randomBytes(bytes).toString("latin1");
    const secretOfOurs = new SharedSecret(shared);
    for (const length of [0, 1, 55, 56, 63, 64, 65, 200, 16 * 1024]) {
      const text = randomBytes(length).toString("base64url").slice(0, length);
      const expected = createHmac("sha256", shared).update(text).digest("base64url");
      expect([bytes, length, secretOfOurs.sign(text)]).toEqual([bytes, length, expected]);
    }
  }
});

test("S1: a token that is longer than the headers of a request is refused", async () => {
  const padding = (length: number) => sign({ padding: "x".repeat(length) });
  const verifier = new TokenVerifier(rules, systemClock);

  expect(await verifier.verify(await padding(10_000))).toMatchObject({ userId: "ann" });
  expect(await verifier.verify(await padding(20_000))).toBe(undefined);
});
