/** Where webhooks may lead, and whether they are sent as promised. DNS is a fake, so that it can change its mind. */
import { expect, test } from "vitest";
import { Webhook } from "standardwebhooks";
import { WebhookSender } from "../../shard-node/webhooks/sender.ts";
import { isPublic, type Resolve, Targets, type WebhookTargets } from "../../shard-node/webhooks/targets.ts";
import { eventually } from "../support/eventually.ts";
import { serve } from "../support/listen.ts";

const SECRET = `whsec_${Buffer.alloc(32, 7).toString("base64")}`;
const message = { secret: SECRET, id: "shard-0.8.x", body: '{"a":"ä"}' };

const INSIDE = `
  127.0.0.1 127.9.9.9 10.0.0.1 172.16.0.1 192.168.1.1 169.254.169.254 100.64.0.1 100.100.100.200 0.0.0.0 0.1.2.3 192.0.0.192
  192.0.2.1 198.18.0.1 224.0.0.1 240.0.0.1 255.255.255.255 168.63.129.16 :: ::1 ::7f00:1 ::127.0.0.1 ::ffff:127.0.0.1
  ::ffff:8.8.8.8 ::ffff:0:7f00:1 64:ff9b::7f00:1 64:ff9b:1::7f00:1 2002:7f00:1:: 2001::7f00:1 fe80::1 fe80::1%lo fec0::1
  fd00:ec2::254 fc00::1 ff02::1 2001:db8::1 3fff::1 100::1 4000::1 nonsense`.split(/\s+/);

test("J12: an address that is not of the public Internet is none for a webhook, in no spelling", () => {
  expect(INSIDE.filter(isPublic)).toEqual([]);
  expect(
    ["8.8.8.8", "203.0.112.255", "2606:4700::1111", "2a00:1450::1"].filter((each) => !isPublic(each)),
  ).toEqual([]);
});

test("J12: a webhook has an https URL of a public host, its port is of https, and it holds no password", async () => {
  const targets = targetsOf("public", {
    "good.example": ["203.0.112.1"],
    "both.example": ["203.0.112.1", "10.0.0.1"],
  });
  const allowed = [
    "https://good.example/",
    "https://good.example:8443/a?b=c",
    "https://203.0.112.1/",
    "https://[2606:4700::1111]/",
  ];
  for (const url of allowed) expect([url, await targets.objectionTo(url)]).toEqual([url, undefined]);
  const refused = {
    "must be an address that begins with https://": [
      "http://good.example/",
      "ftp://good.example/",
      "good.example",
      "file:///etc/passwd",
    ],
    "must have no user name and no password": [
      "https://a@good.example/",
      "https://a:b@good.example/",
      "https://:b@good.example/",
    ],
    "must have the port 443 or 8443": ["https://good.example:22/", "https://good.example:80/"],
    "must have a host whose name leads to an address": [
      "https://nowhere.example/",
      "https://localhost/",
      "https://redis/",
    ],
    "must lead to public addresses only": [
      "https://both.example/",
      "https://127.0.0.1/",
      "https://2130706433/",
      "https://0x7f.1/",
      "https://0177.0.0.1/",
      "https://127.1/",
      "https://[::1]/",
      "https://[::ffff:127.0.0.1]/",
      "https://[64:ff9b::127.0.0.1]/",
      "https://169.254.169.254/latest/meta-data/",
    ],
  };
  for (const [objection, urls] of Object.entries(refused))
    for (const url of urls) expect([url, await targets.objectionTo(url)]).toEqual([url, objection]);
  expect(await targetsOf("none").objectionTo("https://good.example/")).toMatch("sends no webhooks");
});

test("J12: a name that leads inside when it is used is not followed, whatever it was before", async () => {
  let requests = 0;
  await using server = await serve((_, response) => response.end(String((requests += 1))));
  const answers = { "turning.example": ["203.0.112.1"] };
  const targets = targetsOf("public", answers);
  const sender = new WebhookSender(targets, 1);
  const url = "https://turning.example:8443/";
  expect(await targets.objectionTo(url)).toBeUndefined();

  answers["turning.example"] = ["127.0.0.1"];

  expect(await sender.send({ ...message, url })).toBe("the target must lead to public addresses only");
  for (const inside of ["https://127.0.0.1:8443/", "https://[::1]/", `http://127.0.0.1:${server.port}/`])
    expect([inside, await sender.send({ ...message, url: inside })]).toEqual([
      inside,
      expect.stringMatching(/^the target must /),
    ]);
  expect(requests).toBe(0);
  await sender.close();
});

test("J12: a connection goes to the very address that was judged", async () => {
  const hosts: (string | undefined)[] = [];
  await using server = await serve(({ headers }, response) => {
    hosts.push(headers.host);
    response.end();
  });
  let asked = 0;
  const targets = new Targets("any", async () => (++asked === 1 ? ["127.0.0.1"] : ["203.0.112.1"]));
  const sender = new WebhookSender(targets, 1);
  const url = `http://hook.example:${server.port}/`;

  expect(await sender.send({ ...message, url })).toBeUndefined();

  expect([asked, hosts]).toEqual([1, [`hook.example:${server.port}`]]);
  await sender.close();
});

test("J10: what is sent is signed by Standard Webhooks, and its library verifies it", async () => {
  const got: { headers: Record<string, string>; body: string }[] = [];
  await using server = await serve(async (request, response) => {
    let body = "";
    for await (const piece of request.setEncoding("utf8")) body += piece;
    got.push({ headers: request.headers as Record<string, string>, body });
    response.end();
  });
  const sender = new WebhookSender(new Targets("any"), 1);

  expect(await sender.send({ ...message, url: `${server.url}/hook?a=b` })).toBeUndefined();

  const [{ headers, body } = { headers: {}, body: "" }] = got;
  expect(body).toBe(message.body);
  expect(headers).toMatchObject({
    "webhook-id": "shard-0_8_x",
    "content-type": "application/cloudevents+json",
  });
  expect(new Webhook(SECRET).verify(body, headers)).toEqual({ a: "ä" });
  expect(() => new Webhook(`whsec_${Buffer.alloc(32, 8).toString("base64")}`).verify(body, headers)).toThrow(
    "No matching",
  );
  expect(() => new Webhook(SECRET).verify(`${body} `, headers)).toThrow("No matching");
  await sender.close();
});

test("J11: only a 2xx takes it: no redirect is followed, no answer is waited for longer than a try may take", async () => {
  const paths: (string | undefined)[] = [];
  await using server = await serve(({ url }, response) => {
    paths.push(url);
    const status = Number(url?.slice(1));
    if (url === "/hangs") return undefined;
    if (url === "/reset") return response.destroy();
    return response.writeHead(status, { location: "/200" }).end("x");
  });
  const sender = new WebhookSender(new Targets("any"), 1, 500);
  const send = async (path: string) => sender.send({ ...message, url: server.url + path });
  for (const status of [200, 202, 204, 299]) expect(await send(`/${status}`)).toBeUndefined();
  for (const status of [301, 302, 307, 308, 400, 404, 410, 429, 500, 503])
    expect(await send(`/${status}`)).toBe(`status ${status}`);
  expect(await send("/reset")).toBe("UND_ERR_SOCKET");
  expect(await send("/hangs")).toBe("no answer in 500 ms");
  expect(paths.filter((path) => path === "/200")).toHaveLength(1);
  expect(await sender.send({ ...message, url: "http://127.0.0.1:1/" })).toBe("ECONNREFUSED");
  await sender.close();
});

test("J13: of an answer only so much is read, and then its connection is closed", async () => {
  let closed = false;
  await using server = await serve((_, response) => {
    const more = () => void (response.write("x".repeat(65_536)) && setImmediate(more));
    response
      .writeHead(200)
      .on("drain", more)
      .on("close", () => (closed = true));
    more();
  });
  const sender = new WebhookSender(new Targets("any"), 1);

  expect(await sender.send({ ...message, url: server.url })).toBeUndefined();

  await eventually("it was closed", () => closed);
  await sender.close();
});

function targetsOf(
  allowed: WebhookTargets,
  answers: Readonly<Record<string, readonly string[]>> = {},
): Targets {
  const resolve: Resolve = async (host) => answers[host] ?? [];
  return new Targets(allowed, resolve);
}
