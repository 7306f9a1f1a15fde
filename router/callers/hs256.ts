/**
 * Signatures by a shared secret: HMAC with SHA-256 (RFC 2104), in the form of JWS (RFC 7518 §3.2).
 *
 * Two one-shot hashes take half the time of `createHmac`, which makes a native object for each token, and the garbage collector
 * must remove each (docs/decisions/0008-own-check-of-tokens.md). A test compares the signatures with those of `createHmac`.
 */
import { hash, timingSafeEqual } from "node:crypto";

const BLOCK_BYTES = 64;
const DIGEST_BYTES = 32;
/** The digest in base64url. */
const SIGNATURE_CHARACTERS = 43;
/** The headers of a request are no longer (HEADERS_MAX_BYTES in http-server.ts). */
const TOKEN_CHARACTERS_MAX = 16 * 1024;

const expected = Buffer.alloc(SIGNATURE_CHARACTERS);
const received = Buffer.alloc(SIGNATURE_CHARACTERS);

export class SharedSecret {
  /** The key with each pad, and behind it room for the text to hash. */
  readonly #inner = Buffer.alloc(BLOCK_BYTES + TOKEN_CHARACTERS_MAX);
  readonly #outer = Buffer.alloc(BLOCK_BYTES + DIGEST_BYTES);

  constructor(secret: string) {
    const bytes = Buffer.from(secret, "utf8");
    const key = bytes.length > BLOCK_BYTES ? hash("sha256", bytes, "buffer") : bytes;
    for (let at = 0; at < BLOCK_BYTES; at += 1) {
      this.#inner[at] = (key[at] ?? 0) ^ 0x36;
      this.#outer[at] = (key[at] ?? 0) ^ 0x5c;
    }
  }

  /** The signature in base64url. `text` is ASCII. */
  sign(text: string): string {
    const end = BLOCK_BYTES + this.#inner.write(text, BLOCK_BYTES, "latin1");
    // A latin1 string is made faster than a Buffer.
    this.#outer.write(hash("sha256", this.#inner.subarray(0, end), "latin1"), BLOCK_BYTES, "latin1");
    return hash("sha256", this.#outer, "base64url");
  }

  /**
   * `token` is three parts of base64url. The signature is compared as text: decoding ignores its last two bits, so each token
   * would be valid in four forms.
   */
  hasSigned(token: string): boolean {
    const signatureAt = token.length - SIGNATURE_CHARACTERS;
    if (token.length > TOKEN_CHARACTERS_MAX || token[signatureAt - 1] !== ".") return false;
    expected.write(this.sign(token.slice(0, signatureAt - 1)), "latin1");
    received.write(token.slice(signatureAt), "latin1");
    return timingSafeEqual(expected, received);
  }
}
