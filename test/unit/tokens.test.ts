import { createHmac, randomBytes } from "node:crypto";
import { jwtVerify, SignJWT } from "jose";
import { expect, test, vi } from "vitest";
import { systemClock } from "../../shared/process/clock.ts";
import { SharedSecret } from "../../router/callers/hs256.ts";
import { TokenVerifier } from "../../router/callers/tokens.ts";
import { stoppedClock } from "../support/clock.ts";

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
    expect([name, typeof caller === "object" ? caller.userId : undefined]).toEqual([name, expected]);
  }
});

test("S1: a token is good from its beginning, give or take 5 s, to its end, which is at most ten years away", () => {
  const now = 1_900_000_000;
  const tenYears = 3653 * 24 * 3600;
  const verifier = new TokenVerifier({ keys: { secret } }, stoppedClock(now * 1000 + 999));
  const verdict = (claims: Record<string, unknown>): unknown => {
    const text = `${encoded({ alg: "HS256" })}.${encoded({ sub: "ann", exp: now + 60, ...claims })}`;
    const signature = createHmac("sha256", secret).update(text).digest("base64url");
    const caller = verifier.verify(`${text}.${signature}`);
    return caller instanceof Promise || typeof caller !== "object" ? caller : caller.userId;
  };

  for (const claim of ["nbf", "iat"]) {
    expect([claim, verdict({ [claim]: now + 5 })]).toEqual([claim, "ann"]);
    expect([claim, verdict({ [claim]: now + 6 })]).toEqual([claim, "not_yet_valid"]);
    expect([claim, verdict({ [claim]: String(now) })]).toEqual([claim, "not_yet_valid"]);
  }
  expect(verdict({ exp: now + 1 })).toBe("ann");
  expect(verdict({ exp: now })).toBe("expired");
  expect(verdict({ exp: now + tenYears })).toBe("ann");
  expect(verdict({ exp: now + tenYears + 1 })).toBe("claims");
});

test("S1 S2: a sub is a user id in NFC, of 1 to 255 characters that can all be seen, or the token's sub is at fault", async () => {
  const verifier = new TokenVerifier(rules, systemClock);
  const userOf = async (sub: unknown): Promise<unknown> => {
    const caller = await verifier.verify(await sign({ sub }));
    return typeof caller === "object" ? caller.userId : caller;
  };
  const [composed, decomposed] = ["Andr\u00e9", "Andre\u0301"];

  for (const sub of ["x".repeat(255), "auth0|1 a", "\u0416\u0435\u043d\u044f", "\u{1f600}".repeat(255)])
    expect(await userOf(sub)).toBe(sub);
  for (const spelling of [composed, decomposed]) expect(await userOf(spelling)).toBe(composed);
  // Normalising can make a text longer.
  for (const sub of ["", "x".repeat(256), "\u0958".repeat(128), 7, undefined, null])
    expect([sub, await userOf(sub)]).toEqual([sub, "sub"]);
  const spaces = [" ", "\u00a0", "\u2003", "\u3000", "\n", "\u2028"];
  const invisible = [
    "\u0000",
    "\u200b",
    "\u200d",
    "\u202e",
    "\ufeff",
    "\u00ad",
    "\ufe0f",
    "\u3164",
    "\u115f",
  ];
  for (const character of [...spaces, ...invisible, "\u034f", "\u2800", "\ud800", "\ue000", "\u0378"])
    for (const sub of [
      `${character}ann`,
      `ann${character}`,
      ...(character === " " ? [] : [`an${character}n`]),
    ])
      expect([sub, await userOf(sub)]).toEqual([sub, "sub"]);
});

test("S1: an unknown critical header is refused", async () => {
  const header = encoded({ alg: "HS256", crit: ["unknown"], unknown: true });
  const claims = (await sign()).split(".")[1];
  const signature = createHmac("sha256", secret).update(`${header}.${claims}`).digest("base64url");

  expect(await new TokenVerifier(rules, systemClock).verify(`${header}.${claims}.${signature}`)).toBe(
    "header",
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
    return [typeof caller === "object" ? caller.userId : caller, checking.mock.calls.length];
  };

  expect(await verified(await sign())).toEqual(["ann", 1]);
  expect(await verified(await sign({}, {}, previousKey))).toEqual(["ann", 2]);
  expect(await verified(await sign({}, {}, randomBytes(32)))).toEqual(["signature", 2]);
  expect(await verified(await sign({ exp: seconds() - 1 }))).toEqual(["expired", 1]);
  expect(await verified(await sign({ exp: seconds() - 1 }, {}, previousKey))).toEqual(["expired", 2]);
  expect(await verified(await sign({ aud: "others" }, {}, previousKey))).toEqual(["claims", 2]);
  expect(await verified(await sign({ exp: undefined }, {}, previousKey))).toEqual(["claims", 2]);
  const unsigned = `${encoded({ alg: "none" })}.${encoded({ sub: "ann", exp: seconds() + 60 })}.`;
  expect(await verified(unsigned)).toEqual(["malformed", 0]);
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
  expect(await verifier.verify(await padding(20_000))).toBe("signature");
});
