/**
 * The verdicts on tokens, held to those of the libraries of the field: jsonwebtoken for a shared secret, jose for a key set.
 * A failing run prints its seed; TEST_SEED=<seed> npx vitest run test/unit/key-set runs it again.
 */
import { createHmac, createSecretKey, generateKeyPairSync, sign as signBytes } from "node:crypto";
import fc from "fast-check";
import { createLocalJWKSet, exportJWK, generateKeyPair, jwtVerify, SignJWT } from "jose";
import jsonwebtoken from "jsonwebtoken";
import { describe, expect, test } from "vitest";
import { parseUserId } from "../../shared/domain/ids.ts";
import { ROLES, TokenVerifier } from "../../router/callers/tokens.ts";
import { oneOf } from "../support/arbitraries.ts";
import { serveKeys } from "../support/key-set.ts";

const seed = Number(process.env["TEST_SEED"] ?? Date.now() % 2 ** 31);
const SECRET = "a-secret-that-only-tests-ever-use-0000";
const PREVIOUS = "the-secret-that-was-before-it-00000000";
const ISSUER = "us";
const AUDIENCE = "tickets";
const NOW_MS = 1_900_000_000_500;
const NOW = Math.floor(NOW_MS / 1000);
/** In seconds, with as many leap days as there can be. */
const TEN_YEARS = 3653 * 24 * 3600;
const clock = { now: () => NOW_MS, elapsed: () => NOW_MS };

const encoded = (text: string) => Buffer.from(text).toString("base64url");
const signed = (header: string, claims: string, secret: string, hash: string): string => {
  const text = `${encoded(header)}.${encoded(claims)}`;
  return `${text}.${createHmac(hash, secret).update(text).digest("base64url")}`;
};

/** Mostly the good value, and now and then each of the others, or none. */
const mostly = <T>(good: T, ...others: unknown[]) =>
  oneOf([12, fc.constant<unknown>(good)], [1, fc.constantFrom<unknown>(undefined, null, ...others)]);
const times = [
  0,
  -1,
  1e300,
  NOW,
  NOW + 0.5,
  NOW - 0.5,
  NOW + 1,
  NOW - 1,
  NOW + 5,
  NOW + 5.5,
  NOW + 60,
  NOW + TEN_YEARS,
  NOW + TEN_YEARS + 1,
  String(NOW + 60),
  [NOW + 60],
  true,
];
const goodClaims = { sub: "ann", role: "buyer", iss: ISSUER, aud: AUDIENCE, iat: NOW, exp: NOW + 60 };
const claims = fc.record({
  sub: mostly("ann", "", "a b", "ä", "x".repeat(255), "x".repeat(256), "a\u0000", " a", 7, ["ann"], {}),
  role: mostly<unknown>("buyer", ...ROLES, "king", "Buyer", "", 1, ["buyer"], "__proto__"),
  exp: mostly<unknown>(NOW + 60, ...times),
  nbf: mostly<unknown>(undefined, ...times),
  iat: mostly<unknown>(NOW, ...times),
  iss: mostly(ISSUER, "them", "", [ISSUER], 1),
  aud: mostly<unknown>(AUDIENCE, "others", [AUDIENCE], ["others", AUDIENCE], ["others"], [], {}, [
    [AUDIENCE],
  ]),
  more: fc.option(fc.jsonValue(), { freq: 8, nil: undefined }),
});
const OTHER_ALGORITHMS = ["none", "HS384", "HS512", "RS256", "hs256", "", 1, "constructor", "__proto__"];
const header = fc.record({
  alg: mostly("HS256", ...OTHER_ALGORITHMS, ["HS256"]),
  typ: mostly("JWT", "at+jwt", "", 1),
  kid: mostly<unknown>(undefined, "k", "../x", 1),
  crit: mostly<unknown>(undefined, [], ["x"], ["b64"], "x"),
  b64: mostly<unknown>(undefined, true, false),
});
/** JSON that is no object, or not JSON at all. */
const NONSENSE = ["", "null", "[]", "7", '"text"', "{", "{}", "not json", '{"exp":1,"exp":', "\ufeff{}"];
const nonsense = fc.constantFrom(...NONSENSE);

/** What is put into a token: letters, what is no base64url, dots, or nothing. */
const HARM = ["", "..", ".A", ..."AQgw0-_+/=. \u0141\u00e9\0".split("")];

/** The token as it is, or with something in it exchanged, added or missing. */
const spoiled = (token: fc.Arbitrary<string>) => {
  const harmed = fc
    .tuple(token, fc.nat(), fc.nat(2), fc.constantFrom(...HARM))
    .map(([text, where, missing, put]) => {
      const at = where % (text.length + 1);
      return text.slice(0, at) + put + text.slice(at + missing);
    });
  const mixed = fc
    .tuple(token, fc.array(fc.constantFrom(0, 1, 2), { maxLength: 4 }))
    .map(([text, parts]) => parts.map((part) => text.split(".")[part] ?? "").join("."));
  return oneOf([3, token], [3, harmed], [1, mixed]);
};

const sharedSecretToken = spoiled(
  fc
    .tuple(
      oneOf([20, header.map((value) => JSON.stringify(value))], [1, nonsense]),
      oneOf([20, claims.map((value) => JSON.stringify(value))], [1, nonsense]),
      oneOf([6, fc.constant(SECRET)], [2, fc.constantFrom(PREVIOUS, `${SECRET}x`, "")]),
      oneOf([12, fc.constant("sha256")], [1, fc.constant("sha512")]),
    )
    .map((parts) => signed(...parts)),
);

interface Claims {
  readonly sub?: string | undefined;
  readonly exp?: number | undefined;
  readonly iat?: unknown;
  readonly role?: unknown;
}

/** What jsonwebtoken says, and this project's rules for what it leaves open. */
function verdictOfJsonwebtoken(token: string): unknown {
  for (const secret of [SECRET, PREVIOUS]) {
    try {
      const { header: head, payload } = jsonwebtoken.verify(token, secret, {
        algorithms: ["HS256"],
        issuer: ISSUER,
        audience: AUDIENCE,
        clockTimestamp: NOW,
        clockTolerance: 5,
        complete: true,
      });
      return typeof payload === "string" || "crit" in head ? undefined : callerIn(payload);
    } catch {
      // The other secret may be the one.
    }
  }
  return undefined;
}

/** The libraries do not say why they refuse. */
const comparable = (verdict: unknown): unknown =>
  typeof verdict === "object" || verdict === "sub" ? verdict : undefined;

function callerIn({ sub, exp, iat, role = "buyer" }: Claims): unknown {
  const known = ROLES.find((each) => each === role);
  // The leeway of the libraries is for `exp` too, and they let `iat` be.
  if (known === undefined || exp === undefined || exp <= NOW || exp > NOW + TEN_YEARS) return undefined;
  if (iat !== undefined && !(typeof iat === "number" && iat <= NOW + 5)) return undefined;
  const userId = parseUserId(sub);
  if (userId === undefined) return "sub";
  return { userId, role: known, expiresAt: exp * 1000 };
}

test("S1: 5,000 good, changed and hostile tokens of a shared secret get the verdicts of jsonwebtoken", () => {
  const keys = { secret: SECRET, previousSecret: PREVIOUS };
  const verifier = new TokenVerifier({ keys, issuer: ISSUER, audience: AUDIENCE }, clock);
  let taken = 0;
  fc.assert(
    fc.property(sharedSecretToken, (token) => {
      const verdict = verifier.verify(token);
      expect(comparable(verdict)).toEqual(verdictOfJsonwebtoken(token));
      if (typeof verdict === "object") taken += 1;
    }),
    { seed, numRuns: 5_000 },
  );
  // Both verdicts are common, or this test would say little.
  expect(taken).toBeGreaterThan(250);
  expect(taken).toBeLessThan(3_750);
});

test("S1: a token of which any one character is changed is refused", () => {
  const verifier = new TokenVerifier({ keys: { secret: SECRET } }, clock);
  const good = signed('{"alg":"HS256","typ":"JWT"}', JSON.stringify(goodClaims), SECRET, "sha256");
  expect(verifier.verify(good)).toMatchObject({ userId: "ann" });

  for (const [index, character] of good.split("").entries()) {
    const changed = good.slice(0, index) + (character === "A" ? "B" : "A") + good.slice(index + 1);
    expect([index, verifier.verify(changed)]).toEqual([
      index,
      expect.stringMatching(/^(malformed|signature)$/),
    ]);
  }
});

describe.each(["RS256", "ES256", "EdDSA"])("%s", (alg) => {
  test("S1: good, changed and hostile tokens of a key set get the verdicts of jose", async () => {
    const [ours, theirs] = [await generateKeyPair(alg), await generateKeyPair(alg)];
    const keys = [{ ...(await exportJWK(ours.publicKey)), kid: "ours", alg }];
    const keySet = createLocalJWKSet({ keys });
    await using server = await serveKeys(keys);
    const rules = { keys: { jwksUrl: server.url }, issuer: ISSUER, audience: AUDIENCE };
    const verifier = new TokenVerifier(rules, clock);
    const verdictOfJose = async (token: string): Promise<unknown> => {
      // It ignores white space and the last bits in a signature. Here each token is good in one form only.
      const [, , signature = ""] = token.split(".");
      if (Buffer.from(signature, "base64url").toString("base64url") !== signature) return undefined;
      const checks = { issuer: ISSUER, audience: AUDIENCE, currentDate: new Date(NOW_MS), clockTolerance: 5 };
      return jwtVerify(token, keySet, { ...checks, algorithms: ["RS256", "ES256", "EdDSA"] }).then(
        ({ payload }) => callerIn(payload),
        () => undefined,
      );
    };

    const sign = async (payload: object, head: object, key = ours.privateKey) =>
      new SignJWT({ ...payload }).setProtectedHeader({ alg, kid: "ours", ...head }).sign(key);
    const made = await Promise.all(
      [...fc.sample(claims, { seed, numRuns: 100 }), goodClaims].map(async (each) => sign(each, {})),
    );
    const other = await Promise.all([
      sign(goodClaims, { kid: undefined }),
      sign(goodClaims, { kid: "theirs" }),
      sign(goodClaims, {}, theirs.privateKey),
      ...["HS256", "HS512"].map(async (name) =>
        signed(
          JSON.stringify({ alg: name, kid: "ours" }),
          JSON.stringify(goodClaims),
          JSON.stringify(keys[0]),
          "sha256",
        ),
      ),
      ...["none", "RS256", "ES256", "EdDSA", "RS512", "PS256", "ES384", "Ed25519", "constructor"].map(
        async (name) => {
          const [, payload = "", signature = ""] = (made.at(-1) ?? "").split(".");
          return `${encoded(JSON.stringify({ alg: name, kid: "ours" }))}.${payload}.${signature}`;
        },
      ),
    ]);
    let taken = 0;
    await fc.assert(
      fc.asyncProperty(spoiled(fc.constantFrom(...made, ...other)), async (token) => {
        const verdict = await verifier.verify(token);
        expect(comparable(verdict)).toEqual(await verdictOfJose(token));
        if (typeof verdict === "object") taken += 1;
      }),
      { seed, numRuns: 1_500 },
    );
    expect(taken).toBeGreaterThan(100);

    // The last character of a signature holds bits that decoding ignores.
    const good = made.at(-1) ?? "";
    const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    const forms = letters.split("").map((letter) => good.slice(0, -1) + letter);
    const verdicts = await Promise.all(forms.map(async (form) => verifier.verify(form)));
    expect(forms.filter((_, index) => typeof verdicts[index] === "object")).toEqual([good]);
  });
});

/** Processor time of `run`, in microseconds. */
async function processorTimeOf(run: () => Promise<void> | void): Promise<number> {
  const before = process.cpuUsage();
  await run();
  const { user, system } = process.cpuUsage(before);
  return user + system;
}

/** The least that each took in six rounds: whoever else uses the machine can only add to it. */
async function leastProcessorTimes(checks: Readonly<Record<string, () => Promise<void> | void>>) {
  const least: Record<string, number> = {};
  for (let round = 0; round < 6; round += 1)
    for (const [name, check] of Object.entries(checks))
      least[name] = Math.min(least[name] ?? Infinity, await processorTimeOf(check));
  return least;
}

/** Each kind of token that is refused, made of good ones. */
function spoiledIn(
  good: readonly string[],
  sign: (claims: object, header?: object) => string,
): Record<string, readonly string[]> {
  const changed = (change: (parts: [string, string, string]) => string[]) =>
    good.map((token) => change(token.split(".") as [string, string, string]).join("."));
  const each = (claims: object, head?: object) =>
    good.map((_, index) => sign({ sub: `u-${index}`, ...claims }, head));
  return {
    "no token": good.map((token) => `${token}.${token}`),
    "no JSON": changed(([head, payload, signature]) => [head.slice(1), payload, signature]),
    "claims no JSON": changed(([head, payload, signature]) => [head, payload.slice(1), signature]),
    "another's signature": changed(([head, payload, signature]) => [
      head,
      payload,
      signature.replace(/^./, (first) => (first === "A" ? "B" : "A")),
    ]),
    "another algorithm": each({}, { alg: "none" }),
    expired: each({ exp: NOW }),
    "not valid yet": each({ nbf: NOW + 60 }),
    "no exp": each({ exp: undefined }),
    "no such role": each({ role: "king" }),
    "bad sub": each({ sub: "" }),
  };
}

test("S1 I5: a token that is refused costs no more than a good one", async () => {
  const COUNT = 1_000;
  const verifier = new TokenVerifier({ keys: { secret: SECRET } }, clock);
  const sign = (claims: object, head: object = { alg: "HS256", typ: "JWT" }) =>
    signed(
      JSON.stringify(head),
      JSON.stringify({ ...goodClaims, iss: undefined, aud: undefined, ...claims }),
      SECRET,
      "sha256",
    );
  const good = Array.from({ length: COUNT }, (_, index) => sign({ sub: `buyer-${index}` }));
  const kinds = spoiledIn(good, sign);
  for (const [kind, tokens] of Object.entries(kinds))
    expect([kind, tokens.filter((token) => typeof verifier.verify(token) === "object")]).toEqual([kind, []]);
  const theirs = { algorithms: ["HS256" as const], clockTimestamp: NOW };
  const key = createSecretKey(SECRET, "utf8");
  const spent = await leastProcessorTimes({
    good: () => good.forEach((token) => void verifier.verify(token)),
    ...Object.fromEntries(
      Object.entries(kinds).map(([kind, tokens]) => [
        kind,
        () => tokens.forEach((token) => void verifier.verify(token)),
      ]),
    ),
    "good, by jsonwebtoken": () => good.forEach((token) => void jsonwebtoken.verify(token, key, theirs)),
  });

  const each = Object.entries(spent).map(([name, time]) => `${name} ${(time / COUNT).toFixed(1)}`);
  console.log(`HS256, µs of processor time a token: ${each.join(", ")}`);
  const { good: least = 0, "good, by jsonwebtoken": most = 0, ...refused } = spent;
  // Some do nearly all that a good one does; the rest is left to chance.
  for (const [kind, time] of Object.entries(refused))
    expect([kind, time < least * 1.5]).toEqual([kind, true]);
  expect(refused["another's signature"]).toBeLessThan(least);
  expect(least).toBeLessThan(most);
});

test("S1 I5: nor does one that a key set refuses, not even for a key that the set does not have", async () => {
  const { publicKey, privateKey } = generateKeyPairSync("rsa", { modulusLength: 2048 });
  await using server = await serveKeys([{ ...(await exportJWK(publicKey)), kid: "k", alg: "RS256" }]);
  const sign = (claims: object, head: object = { alg: "RS256", kid: "k" }) => {
    const text = `${encoded(JSON.stringify(head))}.${encoded(JSON.stringify({ ...goodClaims, ...claims }))}`;
    return `${text}.${signBytes("sha256", Buffer.from(text), privateKey).toString("base64url")}`;
  };
  const good = Array.from({ length: 100 }, (_, index) => sign({ sub: `buyer-${index}` }));
  const kinds = {
    ...spoiledIn(good, sign),
    "no such key": good.map((_, index) => sign({ sub: `b-${index}` }, { alg: "RS256", kid: `k-${index}` })),
  };
  let verifier: TokenVerifier;
  const spent = await leastProcessorTimes({
    fetching: async () => {
      verifier = new TokenVerifier({ keys: { jwksUrl: server.url } }, clock);
      expect(await verifier.verify(sign({}))).toMatchObject({ userId: "ann" });
    },
    good: async () => {
      for (const token of good) await verifier.verify(token);
    },
    ...Object.fromEntries(
      Object.entries(kinds).map(([kind, tokens]) => [
        kind,
        async () => {
          for (const token of tokens) await verifier.verify(token);
        },
      ]),
    ),
  });

  const each = Object.entries(spent).map(([name, time]) => `${name} ${(time / good.length).toFixed(1)}`);
  console.log(`RS256, µs of processor time a token: ${each.join(", ")}`);
  const { good: least = 0, fetching: _, ...refused } = spent;
  for (const [kind, time] of Object.entries(refused))
    expect([kind, time < least * 1.5]).toEqual([kind, true]);
});

test("S1: a token of a key set costs no more than jose takes for it, and next to nothing when it is remembered", async () => {
  for (const alg of ["RS256", "ES256", "EdDSA"]) {
    const { publicKey, privateKey } = await generateKeyPair(alg);
    const keys = [{ ...(await exportJWK(publicKey)), kid: "k", alg }];
    const keySet = createLocalJWKSet({ keys });
    await using server = await serveKeys(keys);
    const tokens = await Promise.all(
      Array.from({ length: 200 }, async (_, index) =>
        new SignJWT({ sub: `buyer-${index}`, exp: NOW + 60 })
          .setProtectedHeader({ alg, kid: "k" })
          .sign(privateKey),
      ),
    );
    let verifier: TokenVerifier;
    const verifyAll = async () => {
      for (const token of tokens.slice(1)) await verifier.verify(token);
    };
    const spent = await leastProcessorTimes({
      // It fetches the keys for the first token.
      fetching: async () => {
        verifier = new TokenVerifier({ keys: { jwksUrl: server.url } }, clock);
        expect(await verifier.verify(tokens[0] ?? "")).toMatchObject({ userId: "buyer-0" });
      },
      first: verifyAll,
      again: verifyAll,
      byJose: async () => {
        for (const token of tokens.slice(1))
          await jwtVerify(token, keySet, { currentDate: new Date(NOW_MS) });
      },
    });
    const [first = 0, again = 0, byJose = 0] = ["first", "again", "byJose"].map(
      (name) => (spent[name] ?? 0) / tokens.length,
    );

    console.log(
      `${alg}, µs of processor time a token: new ${first.toFixed(0)}, by jose ${byJose.toFixed(0)}, remembered ${again.toFixed(1)}`,
    );
    expect(again).toBeLessThan(first / 5);
    expect(first).toBeLessThan(byJose * 1.5);
  }
});
