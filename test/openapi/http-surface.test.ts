/**
 * The whole HTTP surface, from the OpenAPI document: requests that it allows, and the same with something broken. Whatever is
 * sent, the answer is one that the document describes. A failing run prints its seed and path:
 * TEST_SEED=<seed> TEST_PATH=<path> npx vitest run test/openapi/http-surface. FC_NUM_RUNS changes how many are sent.
 */
import { Agent, type IncomingHttpHeaders, request } from "node:http";
import { text } from "node:stream/consumers";
import { Ajv2020, type ValidateFunction } from "ajv/dist/2020.js";
import formats from "ajv-formats";
import fc from "fast-check";
import { expect, test } from "vitest";
import { audit } from "../../audit/audit.ts";
import { PROBLEMS, type ProblemCode } from "../../router/http/problems.ts";
import type { Role } from "../../router/callers/tokens.ts";
import { startTestReadSide } from "../support/read-side.ts";
import { PATIENT, type ProblemBody, startTestCluster, tally, tokenOf } from "../support/running-cluster.ts";

/** What this test reads of a JSON schema. */
interface Schema {
  readonly type?: string | readonly string[];
  readonly enum?: readonly unknown[];
  readonly example?: unknown;
  readonly minimum?: number;
  readonly maximum?: number;
  readonly maxLength?: number;
  readonly format?: string;
  readonly properties?: Readonly<Record<string, Schema>>;
  readonly required?: readonly string[];
}
interface Operation {
  readonly parameters?: readonly { in: "path" | "query" | "header"; name: string; schema: Schema }[];
  readonly requestBody?: { content: { "application/json": { schema: Schema } } };
  readonly responses: Readonly<
    Record<string, { content?: Record<string, unknown>; headers?: Record<string, unknown> }>
  >;
}
interface Document {
  readonly paths: Readonly<Record<string, Readonly<Record<string, Operation>>>>;
}
interface Sent {
  readonly method: string;
  readonly path: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: string | undefined;
}
interface Got {
  readonly status: number;
  readonly headers: IncomingHttpHeaders;
  readonly body: string;
}

const BATCH_MAX = 100;
const seed = Number(process.env["TEST_SEED"] ?? Date.now() % 2 ** 31);
/** Batches of 50 on average: 20,000 requests. */
const numRuns = Number(process.env["FC_NUM_RUNS"] ?? 400);
const path = process.env["TEST_PATH"];

test("S2 A7: every answer to 20,000 requests, whole and broken, is as the OpenAPI document describes it", async () => {
  // Names of hosts that nobody has would be looked up.
  await using cluster = await startTestCluster({ env: { ...PATIENT, WEBHOOK_TARGETS: "none" } });
  await using readSide = await startTestReadSide(cluster.nodes);
  await readSide.ready();
  const client = cluster.client(await cluster.addRouter({ ...PATIENT, READ_SIDE_URL: readSide.url }));
  const { body: document } = await client.send<Document>("GET", "/openapi.json");
  const event = await client.createEvent({ totalTickets: 10_000, maxPerUser: 100 });
  const booking = await client.hold(event.id, "buyer", { quantity: 1 });
  const tokens = {
    buyer: await tokenOf("buyer"),
    organizer: await tokenOf("the-organizer", "organizer"),
    operator: await tokenOf("operator", "operator"),
  };
  const agent = new Agent({ keepAlive: true, maxSockets: 50 });
  const contract = contractOf(document);
  const statuses: number[] = [];

  await fc.assert(
    fc.asyncProperty(
      fc.array(anyRequest(document, { event: event.id, booking: booking.body.id }, tokens), {
        minLength: 1,
        maxLength: BATCH_MAX,
        size: "max",
      }),
      async (requests) => {
        const answers = await Promise.all(requests.map(async (each) => send(client.url, agent, each)));
        const wrong = requests.flatMap((sent, index) => {
          const got = answers[index] as Got;
          return contract(sent, got).map((fault) => ({ fault, sent, got }));
        });
        expect(wrong).toEqual([]);
        statuses.push(...answers.map(({ status }) => status));
      },
    ),
    { numRuns, seed, ...(path === undefined ? {} : { path }) },
  );

  agent.destroy();
  // The requests come by every kind of answer.
  console.log(`TEST_SEED=${seed}`, tally(statuses));
  const kinds = [200, 201, 400, 401, 403, 404, 405, 409, 412, 415, 422];
  expect(Object.keys(tally(statuses))).toEqual(expect.arrayContaining(kinds.map(String)));
  expect((await audit(cluster.catalogUrl)).violations).toEqual([]);
}, 180_000);

/** What is wrong with an answer: nothing, when it is as the document describes it. */
function contractOf(document: Document): (sent: Sent, got: Got) => string[] {
  const ajv = new Ajv2020({ strict: false });
  formats.default(ajv);
  ajv.addSchema(document, "contract");
  const validators = new Map<string, ValidateFunction>();
  const faultsIn = (value: unknown, ...pointer: string[]): string[] => {
    const $ref = `contract#/${pointer.map((part) => encodeURIComponent(part.replaceAll("/", "~1"))).join("/")}`;
    const validate = validators.get($ref) ?? ajv.compile({ $ref });
    validators.set($ref, validate);
    return validate(value) ? [] : [ajv.errorsText(validate.errors)];
  };
  const templates = Object.keys(document.paths).map((template) => ({
    template,
    pattern: new RegExp(`^${template.replaceAll(/\{\w+\}/g, "[^/]+")}$`),
  }));
  const faultsOfProblem = ({ status, headers, body }: Got): string[] => {
    const said = JSON.parse(body) as ProblemBody;
    const isProblem =
      headers["content-type"] === "application/problem+json; charset=utf-8" &&
      said["status"] === status &&
      said.requestId === headers["x-request-id"] &&
      PROBLEMS[said.code as ProblemCode].status === status;
    return [
      ...(isProblem ? [] : ["no problem of the catalogue"]),
      ...(/node_modules|\.ts:|select |insert /i.test(body) ? ["internals in the answer"] : []),
      ...faultsIn(said, "components", "schemas", "Problem"),
    ];
  };

  return (sent, got) => {
    const { status, headers, body } = got;
    const faults: string[] = [];
    if (status >= 500) faults.push("a fault of the server");
    if (!/^[A-Za-z0-9._-]{1,64}$/.test(String(headers["x-request-id"]))) faults.push("no request id");
    const method = sent.method === "HEAD" ? "get" : sent.method.toLowerCase();
    const [address = ""] = sent.path.split("?");
    const template = templates.find(({ pattern }) => pattern.test(address))?.template ?? "";
    const operation = document.paths[template]?.[method];
    const described = operation?.responses[status];
    if (operation !== undefined && described === undefined) faults.push(`${status} is not documented`);
    for (const header of Object.keys(described?.headers ?? {}))
      if (headers[header] === undefined) faults.push(`${header} is missing`);
    if (sent.method === "HEAD" || status === 304) return body === "" ? faults : [...faults, "a body"];
    if (status >= 400) return [...faults, ...faultsOfProblem(got)];
    if (described?.content === undefined) return faults;
    const pointer = [
      "paths",
      template,
      method,
      "responses",
      String(status),
      "content",
      "application/json",
      "schema",
    ];
    return [...faults, ...faultsIn(JSON.parse(body), ...pointer)];
  };
}

const HEADER_TEXT = /^[\x20-\x7e\x80-\xff]*$/;
const junkHeader = fc.string({ unit: "binary", maxLength: 140 }).filter((value) => HEADER_TEXT.test(value));
const junkPath = fc.string({ maxLength: 60 }).filter((value) => /^[!-~]*$/.test(value));
const METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"];

/** A request of an operation. Each part is nearly always what the document allows, and else broken. */
function anyRequest(
  { paths }: Document,
  ids: Readonly<Record<"event" | "booking", string>>,
  tokens: Readonly<Record<Role, string>>,
): fc.Arbitrary<Sent> {
  const operations = Object.entries(paths).flatMap(([template, methods]) =>
    Object.entries(methods).map(([method, operation]) => ({ template, method, operation })),
  );
  const idLike = (template: string) =>
    mostly(
      fc.constant(template.startsWith("/v1/events") ? ids.event : ids.booking),
      fc.oneof(
        fc.constantFrom(...Object.values(ids)),
        fc.uuid().map((id) => id.toUpperCase()),
        junkPath.filter((part) => !/[/?#]/.test(part)),
      ),
    );
  const tokenFor = (template: string, method: string) => {
    const isOrganizers =
      method === "patch" ||
      template === "/v1/events" ||
      /\/(?:statistics|webhooks)/.test(template) ||
      `${method} ${template}` === "get /v1/events/{id}/bookings";
    const others = fc.constantFrom(...Object.values(tokens));
    const broken = others.map((token) => `${token}x`);
    return mostly(
      fc.constant(`Bearer ${isOrganizers ? tokens.organizer : tokens.buyer}`),
      fc.oneof(
        fc.oneof(others, broken).map((token) => `Bearer ${token}`),
        junkHeader,
        fc.constant(undefined),
      ),
    );
  };
  return fc.constantFrom(...operations).chain(({ template, method, operation }) => {
    const { parameters = [], requestBody } = operation;
    const schema = requestBody?.content["application/json"].schema;
    const named = (where: "query" | "header") =>
      fc.record(
        Object.fromEntries(
          parameters
            .filter((parameter) => parameter.in === where)
            .map((parameter) => [
              parameter.name,
              mostly(valueOf(parameter.schema).map(String), where === "query" ? fc.string() : junkHeader),
            ]),
        ),
        { requiredKeys: [] },
      );
    const json = schema === undefined ? fc.constant(undefined) : bodyOf(schema);
    return fc
      .record({
        method: mostly(fc.constant(method.toUpperCase()), fc.constantFrom(...METHODS)),
        address: mostly(
          idLike(template).map((id) => template.replaceAll(/\{(?:id|webhookId)\}/g, id)),
          junkPath.map((rest) => `/${rest}`),
        ),
        query: mostly(named("query"), fc.dictionary(fc.string(), fc.string(), { maxKeys: 3 })),
        headers: named("header"),
        junk: mostly(
          fc.constant({}),
          fc.record(
            { accept: junkHeader, "x-request-id": junkHeader, "if-match": junkHeader },
            { requiredKeys: [] },
          ),
        ),
        token: tokenFor(template, method),
        type: mostly(fc.constant("application/json"), fc.oneof(junkHeader, fc.constant("text/plain"))),
        body: mostly(json, fc.oneof(fc.json(), fc.string({ unit: "binary" }))),
      })
      .map(({ method: asked, address, query, headers, junk, token, type, body }) => {
        const search = new URLSearchParams(
          Object.entries(query).map(([name, value]) => [name, value ?? ""]),
        ).toString();
        // Node.js frames no body of some methods by itself.
        const framed =
          body === undefined
            ? {}
            : { "content-type": type, "content-length": String(Buffer.byteLength(body)) };
        const present = { ...framed, authorization: token };
        return {
          method: asked,
          path: search === "" ? address : `${address}?${search}`,
          headers: JSON.parse(JSON.stringify({ ...headers, ...junk, ...present })) as Record<string, string>,
          body,
        };
      });
  });
}

function mostly<T>(usual: fc.Arbitrary<T>, broken: fc.Arbitrary<T>): fc.Arbitrary<T> {
  return fc.oneof({ weight: 12, arbitrary: usual }, { weight: 1, arbitrary: broken });
}

/** A body that the schema allows, or one with a member too few, too many or of another type. */
function bodyOf({ properties = {}, required = [] }: Schema): fc.Arbitrary<string | undefined> {
  const members = Object.fromEntries(
    Object.entries(properties).map(([name, schema]) => [name, mostly(valueOf(schema), fc.jsonValue())]),
  );
  return fc
    .tuple(
      fc.record(members, { requiredKeys: [...required] }),
      mostly(fc.constant({}), fc.dictionary(fc.string(), fc.jsonValue(), { maxKeys: 2 })),
      mostly(fc.constant(undefined), fc.constantFrom(...required, undefined)),
    )
    .map(([body, more, without]) =>
      JSON.stringify({ ...body, ...more, ...(without === undefined ? {} : { [without]: undefined }) }),
    );
}

function valueOf({ type, format, maxLength = 40, ...schema }: Schema): fc.Arbitrary<unknown> {
  if (schema.enum !== undefined) return fc.constantFrom(...schema.enum);
  if (Array.isArray(type)) {
    const [first] = type as readonly string[];
    return fc.oneof(
      valueOf({ type: first ?? "null", ...(format && { format }), maxLength, ...schema }),
      fc.constant(null),
    );
  }
  if (type === "integer")
    return fc.integer({ min: schema.minimum ?? -(2 ** 31), max: schema.maximum ?? 2 ** 31 - 1 });
  if (format === "uuid") return fc.uuid();
  if (format === "date-time")
    return fc
      .date({ min: new Date("0001-01-02"), max: new Date("9999-12-30"), noInvalidDate: true })
      .map((date) => date.toISOString());
  return fc.oneof(fc.constant(schema.example ?? "text"), fc.stringMatching(/^[!-~]+$/, { maxLength }));
}

async function send(url: string, agent: Agent, { method, path: target, headers, body }: Sent): Promise<Got> {
  const { promise, resolve, reject } = Promise.withResolvers<Got>();
  const { hostname, port } = new URL(url);
  request({ hostname, port, agent, method, path: target, headers }, (response) => {
    const { statusCode: status = 0, headers: said } = response;
    text(response).then((read) => resolve({ status, headers: said, body: read }), reject);
  })
    .on("error", reject)
    .end(body);
  return promise;
}
