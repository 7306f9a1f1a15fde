/** Bearer tokens (RFC 7519), signed in the script with the cluster's secret: in a rush every buyer is somebody new. */
import { hmac } from "k6/crypto";
import { b64encode } from "k6/encoding";

export type Role = "buyer" | "organizer";

const HEADER = b64encode('{"alg":"HS256","typ":"JWT"}', "rawurl");
/** Longer than any run may last. */
const TTL_SECONDS = 8 * 24 * 3600;

/** The value of an Authorization header that says who is asking. */
export function bearer(secret: string, sub: string, role: Role): string {
  const exp = Math.floor(Date.now() / 1000) + TTL_SECONDS;
  const signed = `${HEADER}.${b64encode(JSON.stringify({ sub, role, exp }), "rawurl")}`;
  return `Bearer ${signed}.${hmac("sha256", secret, signed, "base64rawurl")}`;
}
