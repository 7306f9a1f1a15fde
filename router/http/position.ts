/** `Onsale-Position`: how far one must have followed the log of changes to know the booking of an answer. Opaque to clients. */
import type { ResponseHeaders } from "./responses.ts";

export const POSITION_HEADER = "onsale-position";

/** The header for a decision of a shard. A node of the version before says no position. */
export function positionHeader({ position }: { readonly position?: string | undefined }): ResponseHeaders {
  return position === undefined ? {} : { [POSITION_HEADER]: position };
}
