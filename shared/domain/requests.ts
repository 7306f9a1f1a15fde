/**
 * Booking requests: commands that a queue has accepted for a decision later. The id of a request is that of the booking that
 * it may become. It carries the slot and the moment of acceptance, so the id alone leads to the shard that knows more.
 */
import { z } from "zod";
import { decisionSchemas } from "./outcomes.ts";

/** What a shard knows of a request. */
export const requestStateSchema = z.discriminatedUnion("status", [
  /** `ahead` is an estimate of the requests to be decided before this one; null when nobody knows. */
  z.object({ status: z.literal("queued"), ahead: z.number().int().nonnegative().nullable() }),
  z.object({ status: z.literal("decided"), decision: z.discriminatedUnion("outcome", [...decisionSchemas]) }),
  z.object({ status: z.literal("lapsed") }),
]);
export type RequestState = Readonly<z.infer<typeof requestStateSchema>>;

/** How long the outcome of a request is kept, counted from its acceptance. */
export const REQUEST_KEPT_SECONDS = 24 * 3600;

/** Until when a request is decided, counted from its acceptance, unless QUEUE_MAX_AGE_SECONDS says otherwise. */
export const REQUEST_MAX_AGE_SECONDS = 300;
