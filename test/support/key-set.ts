import type { JWK } from "jose";
import { serve } from "./listen.ts";

/** A key set (RFC 7517 §5) at an address of its own. */
export const serveKeys = async (keys: readonly JWK[]) =>
  serve((_request, response) => response.end(JSON.stringify({ keys })));
