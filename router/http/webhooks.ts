/** Webhooks of an event: add, list and remove them. Its shard decides whose they are, and its nodes deliver (shard-node/webhooks/). */
import { randomBytes } from "node:crypto";
import { newEventId } from "../../shared/domain/ids.ts";
import type { Clock } from "../../shared/process/clock.ts";
import type { Span } from "../../shared/watch/tracing.ts";
import type { WebhooksDone, WebhooksRequest, WebhooksResult } from "../../shared/wire/rpc.ts";
import type { Caller } from "../callers/tokens.ts";
import type { Cluster } from "../shards/cluster.ts";
import { Problem, problemOf } from "./problems.ts";
import { jsonResponse } from "./responses.ts";
import type { Routes } from "./routes.ts";
import { eventId, newWebhookSchema, webhookBody, webhookId, webhookListSchema } from "./schemas.ts";

export interface WebhookParts {
  readonly cluster: Cluster;
  readonly clock: Clock;
}

/** As many as the key that they are for has (HMAC-SHA-256). */
const SECRET_BYTES = 32;
/** Answers with what only the owner may know. */
const OWN = { "cache-control": "private, no-store" };
const OF_OTHERS = new Problem(
  "forbidden",
  "Only the organizer who created an event, and operators, see to its webhooks.",
);

const ROLES = ["organizer", "operator"] as const;

export function addWebhookRoutes(routes: Routes, { cluster, clock }: WebhookParts): void {
  /** Throws a Problem when another outcome comes. */
  const ask = async <Done extends WebhooksDone>(
    done: Done,
    request: WebhooksRequest,
    span: Span | undefined,
  ): Promise<Extract<WebhooksResult, { outcome: Done }>> => {
    const result = await cluster.webhooks(request, span);
    if (result.outcome === done) return result as Extract<WebhooksResult, { outcome: Done }>;
    throw result.outcome === "forbidden"
      ? OF_OTHERS
      : problemOf(result as Exclude<WebhooksResult, { outcome: WebhooksDone }>);
  };

  routes.secured(
    {
      method: "post",
      path: "/v1/events/{id}/webhooks",
      summary: "Be told of your event's changes",
      description:
        "From now on the URL gets each change of the event and of its bookings as a CloudEvent, in a POST that is signed by " +
        "Standard Webhooks: at least once each, in any order. A 2xx in ten seconds takes it; else it is sent again, for 33 hours.",
      tag: "events",
      id: eventId,
      body: webhookBody,
      responses: {
        201: {
          description: "The webhook, with its secret.",
          schema: newWebhookSchema,
          headers: ["cache-control"],
        },
      },
      refusals: ["event_not_found", "too_many_webhooks", "outcome_unknown"],
    },
    ROLES,
    async ({ caller, id, body, requestId, span }) => {
      // The router's second try has the same id, and gets the webhook that the first one made.
      const webhook = {
        id: newEventId(clock.now()),
        secret: `whsec_${randomBytes(SECRET_BYTES).toString("base64")}`,
        ...body,
      };
      const request = { action: "create", eventId: id, caller: callerOf(caller), ...webhook } as const;
      const created = await ask("created", request, span);
      return jsonResponse(201, created.webhook, requestId, OWN);
    },
  );

  routes.secured(
    {
      method: "get",
      path: "/v1/events/{id}/webhooks",
      summary: "List the webhooks of your event",
      tag: "events",
      id: eventId,
      responses: {
        200: {
          description: "All of them, the oldest first.",
          schema: webhookListSchema,
          headers: ["cache-control"],
        },
      },
      refusals: ["event_not_found"],
    },
    ROLES,
    async ({ caller, id, requestId, span }) => {
      const request = { action: "list", eventId: id, caller: callerOf(caller) } as const;
      const { webhooks: items } = await ask("listed", request, span);
      return jsonResponse(200, { items }, requestId, OWN);
    },
  );

  routes.secured(
    {
      method: "delete",
      path: "/v1/events/{id}/webhooks/{webhookId}",
      summary: "Remove a webhook",
      description: "It is told nothing more. Of a webhook that is not there the answer is the same.",
      tag: "events",
      id: webhookId,
      responses: { 204: { description: "There is no such webhook any more.", schema: null } },
      refusals: ["event_not_found", "outcome_unknown"],
    },
    ROLES,
    async ({ caller, id, requestId, span }) => {
      const request = {
        action: "delete",
        eventId: id.eventId,
        caller: callerOf(caller),
        id: id.webhookId,
      } as const;
      await ask("deleted", request, span);
      return new Response(null, { status: 204, headers: { "x-request-id": requestId } });
    },
  );
}

/** An operator may see to all webhooks. */
function callerOf({ role, userId }: Caller): Caller["userId"] | null {
  return role === "operator" ? null : userId;
}
