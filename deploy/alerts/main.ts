/**
 * Shows the alerts that Alertmanager sends, a line of the log each, until somebody names a receiver that wakes people
 * (docs/operations.md, "Where alerts go").
 */
import { createServer } from "node:http";
import { z } from "zod";
import { port, readConfig } from "../../shared/process/config.ts";
import { bodyOf } from "../../shared/process/connections.ts";
import { createLog } from "../../shared/process/log.ts";

/** Alertmanager groups alerts, and a group has few. */
const BODY_MAX_BYTES = 1024 * 1024;

/** What is shown of Alertmanager's message (its manual, "Configuration", webhook_config). */
const message = z.object({
  receiver: z.string(),
  alerts: z.array(
    z.object({
      status: z.enum(["firing", "resolved"]),
      labels: z.record(z.string(), z.string()),
      annotations: z.record(z.string(), z.string()),
      startsAt: z.string(),
    }),
  ),
});

const { ADMIN_PORT } = readConfig(z.object({ ADMIN_PORT: port(9095) }), process.env);
const log = createLog("alerts", "info");

createServer((request, response) => {
  if (request.url === "/readyz") return void response.end();
  bodyOf(request, BODY_MAX_BYTES)
    .then((body) => show(message.parse(JSON.parse(body))))
    .catch((error: unknown) => {
      log.error({ error: String(error) }, "this is no message of Alertmanager");
      response.statusCode = 400;
    })
    .finally(() => response.end());
}).listen(ADMIN_PORT);

function show({ receiver, alerts }: z.infer<typeof message>): void {
  for (const { status, labels, annotations, startsAt } of alerts)
    log.warn(
      { status, receiver, startsAt, ...labels, ...annotations },
      `${labels["alertname"]} is ${status}`,
    );
}
