/** Webhooks: who is told of an event's changes over HTTP, as CloudEvents. Organizers add them, and nodes deliver. */
import { z } from "zod";
import { CLOUD_EVENT_TYPES } from "./cloud-events.ts";

/** The table of webhooks has the same bounds as constraints. */
export const WEBHOOKS_OF_EVENT_MAX = 5;
export const WEBHOOK_URL_CHARACTERS_MAX = 2_048;

export const webhookSchema = z.object({
  id: z.string(),
  url: z.string(),
  /** Of what it is told. */
  types: z.array(z.enum(CLOUD_EVENT_TYPES)),
});

/** `secret` is the key that signs, in the form of Standard Webhooks: `whsec_` and base64. */
export const newWebhookSchema = webhookSchema.extend({ secret: z.string() });
