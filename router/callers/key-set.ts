/**
 * Signatures by one of several private keys (RS256, ES256, EdDSA). Node.js verifies them on this thread. jose would hand each
 * token to another thread and back, for up to twice the processor time (docs/decisions/0008-own-check-of-tokens.md).
 */
import { KeyObject, verify } from "node:crypto";

/** Finds the key that a token's header names. Rejects when the set has none or more than one. */
type FindKey = (header: { readonly alg: string }) => Promise<CryptoKey>;

const RSA_BITS_MIN = 2048;

/** RFC 7518 §3.1 and RFC 8037. The key must have the algorithm's type (RFC 8725 §3.1). */
const ALGORITHMS: Readonly<
  Record<string, { keyType: string; digest: "sha256" | null; curve?: string } | undefined>
> = Object.assign(Object.create(null), {
  RS256: { keyType: "rsa", digest: "sha256" },
  ES256: { keyType: "ec", digest: "sha256", curve: "prime256v1" },
  EdDSA: { keyType: "ed25519", digest: null },
});

/**
 * Says what is wrong with the signature of a token, which is three parts of base64url and has this header; undefined when a key of
 * the set made it. Rejects as `findKey` does.
 */
export function keySetVerifier(
  findKey: FindKey,
): (token: string, header: Readonly<Record<string, unknown>>) => Promise<"header" | "signature" | undefined> {
  const keys = new WeakMap<CryptoKey, KeyObject>();
  const keyObjectOf = (found: CryptoKey): KeyObject => {
    let key = keys.get(found);
    if (key === undefined) keys.set(found, (key = KeyObject.from(found)));
    return key;
  };
  return async (token, header) => {
    const { alg } = header;
    const algorithm = typeof alg === "string" ? ALGORITHMS[alg] : undefined;
    if (algorithm === undefined) return "header";
    const key = keyObjectOf(await findKey(header as { alg: string }));
    const { modulusLength = RSA_BITS_MIN, namedCurve } = key.asymmetricKeyDetails ?? {};
    if (key.asymmetricKeyType !== algorithm.keyType || namedCurve !== algorithm.curve) return "header";
    if (modulusLength < RSA_BITS_MIN) return "header";

    const signatureAt = token.lastIndexOf(".") + 1;
    const text = token.slice(signatureAt);
    const signature = Buffer.from(text, "base64url");
    // Decoding ignores bits at the end, so each token would be valid in several forms.
    if (signature.toString("base64url") !== text) return "signature";
    const signed = Buffer.from(token.slice(0, signatureAt - 1), "latin1");
    // JWS joins the two numbers of an ECDSA signature (RFC 7518 §3.4), where X.509 wraps them.
    const isSigned = verify(algorithm.digest, signed, { key, dsaEncoding: "ieee-p1363" }, signature);
    return isSigned ? undefined : "signature";
  };
}
