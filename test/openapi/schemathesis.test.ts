/** schemathesis asks a cluster for what the OpenAPI document allows and forbids, and compares every answer with it. */
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { delimiter, join } from "node:path";
import { existsSync } from "node:fs";
import { execa } from "execa";
import { expect, test } from "vitest";
import { startTestCluster, tokenOf } from "../support/running-cluster.ts";
import { startTestReadSide } from "../support/read-side.ts";
import { ORGANIZER } from "../support/commands.ts";

const program = (process.env["PATH"] ?? "")
  .split(delimiter)
  .map((folder) => join(folder, "schemathesis"))
  .find((path) => existsSync(path));
if (program === undefined) console.warn("SKIPPED: schemathesis (none on PATH)");

/** Requests of each operation, whole and broken. All phases together take about a minute. */
const EXAMPLES = "40";

test.skipIf(program === undefined)(
  "S2 A7: schemathesis, with all its checks, finds nothing",
  async () => {
    // Names of hosts that nobody has would be looked up.
    await using cluster = await startTestCluster({ env: { WEBHOOK_TARGETS: "none" } });
    await using readSide = await startTestReadSide(cluster.nodes);
    await readSide.ready();
    const client = cluster.client(await cluster.addRouter({ READ_SIDE_URL: readSide.url }));
    const { id } = await client.createEvent({ totalTickets: 1_000 });
    const folder = await mkdtemp(join(tmpdir(), "onsale-schemathesis-"));
    const config = join(folder, "schemathesis.toml");
    await writeFile(config, configuration(await tokenOf("buyer"), await tokenOf(ORGANIZER, "organizer"), id));
    const seed = process.env["TEST_SEED"] ?? String(Math.trunc(Math.random() * 2 ** 31));
    const location = `${client.url}/openapi.json`;
    // DELETE cancels a booking, and its owner can read it on.
    const options =
      `--checks all --exclude-checks use_after_free --max-examples ${EXAMPLES} --seed ${seed} --no-color`.split(
        " ",
      );
    const run = await execa(program ?? "", ["--config-file", config, "run", location, ...options], {
      cwd: folder,
      reject: false,
      all: true,
      timeout: 150_000,
    });
    await rm(folder, { recursive: true });
    if (run.exitCode !== 0) console.log(`TEST_SEED=${seed}\n${run.all}`);
    expect(run.exitCode).toBe(0);
  },
  180_000,
);

/** Each operation with the token of who may use it, and the refusals that a valid request may meet beside the usual ones. */
function configuration(buyer: string, organizer: string, eventId: string): string {
  return `
[headers]
Authorization = "Bearer ${buyer}"

[checks]
positive_data_acceptance.expected-statuses = ["2xx", "304", "404", "409", "412", "422"]

[[operations]]
include-name = "POST /v1/events"
headers = { Authorization = "Bearer ${organizer}" }
# No schema says that one time is before another.
checks.positive_data_acceptance.expected-statuses = ["2xx", "400", "422"]

[[operations]]
include-name = "PATCH /v1/events/{id}"
headers = { Authorization = "Bearer ${organizer}" }
checks.positive_data_acceptance.expected-statuses = ["2xx", "400", "404", "409", "412"]

[[operations]]
include-name = ["POST /v1/events/{id}/bookings", "POST /v1/events/{id}/holds"]
parameters = { id = "${eventId}" }

[[operations]]
include-name = ["GET /v1/events/{id}/bookings", "GET /v1/events/{id}/statistics"]
headers = { Authorization = "Bearer ${organizer}" }
parameters = { id = "${eventId}" }

# This cluster sends none.
[[operations]]
include-path = ["/v1/events/{id}/webhooks", "/v1/events/{id}/webhooks/{webhookId}"]
headers = { Authorization = "Bearer ${organizer}" }
parameters = { id = "${eventId}" }
checks.positive_data_acceptance.expected-statuses = ["2xx", "400", "404", "409"]

# No schema says what a position is.
[[operations]]
include-name = "GET /v1/bookings"
checks.positive_data_acceptance.expected-statuses = ["2xx", "400"]
`;
}
