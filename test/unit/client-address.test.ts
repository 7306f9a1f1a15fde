import { expect, test } from "vitest";
import { clientAddressBehind, networksFrom } from "../../router/callers/client-address.ts";

const proxies = networksFrom(["127.0.0.0/8", "::1", "10.1.2.3", "fd00::/8"]);
if (proxies === undefined) throw new Error("they are networks");
const clientOf = clientAddressBehind(proxies);

test("S6: a client is the address that connected, whatever it says of itself", () => {
  expect(clientOf("203.0.113.7", undefined)).toBe("203.0.113.7");
  expect(clientOf("203.0.113.7", "198.51.100.1")).toBe("203.0.113.7");
  expect(clientOf("::ffff:203.0.113.7", "198.51.100.1")).toBe("203.0.113.7");
  expect(clientOf("10.1.2.4", "198.51.100.1")).toBe("10.1.2.4");
});

test("S6: behind a trusted proxy a client is the one that this proxy named", () => {
  for (const proxy of [
    "127.0.0.1",
    "127.9.9.9",
    "::1",
    "::ffff:127.0.0.1",
    "10.1.2.3",
    "::ffff:10.1.2.3",
    "fd12::1",
  ]) {
    expect([proxy, clientOf(proxy, "198.51.100.1")]).toEqual([proxy, "198.51.100.1"]);
    // What stands before is what the client said.
    expect([proxy, clientOf(proxy, "192.0.2.1, 192.0.2.2,198.51.100.1 ")]).toEqual([proxy, "198.51.100.1"]);
  }
});

test("S6: a trusted proxy that names nobody speaks for nobody", () => {
  for (const header of [
    undefined,
    "",
    ",",
    "unknown",
    "198.51.100.1,",
    "198.51.100.1:80",
    "x".repeat(10_000),
  ])
    expect([header, clientOf("127.0.0.1", header)]).toEqual([header, undefined]);
  expect(clientOf(undefined, "198.51.100.1")).toBe(undefined);
});

test("S6: all addresses of an IPv6 network of 64 bits are one client", () => {
  const same = [
    "2001:db8:1:2::1",
    "2001:db8:1:2:ffff:ffff:ffff:ffff",
    "2001:db8:1:2:3:4:5:6",
    "2001:db8:1:2::",
  ];
  expect(new Set(same.map((address) => clientOf(address, undefined)))).toEqual(new Set(["2001:db8:1:2"]));
  expect(clientOf("2001:db8::7", undefined)).toBe("2001:db8:0:0");
  expect(clientOf("2001:db8:0:1::7", undefined)).toBe("2001:db8:0:1");
  expect(clientOf("fe80::1%eth0", undefined)).toBe("fe80:0:0:0");
  expect(clientOf("::7", undefined)).toBe("0:0:0:0");
});

test("S6: what is no address and no network is no proxy", () => {
  for (const text of ["", "proxy", "10.0.0.0/33", "::/129", "10.0.0.0/", "10.0.0.0/8/8", "10.0.0", "/8"])
    expect([text, networksFrom(["10.0.0.1", text])]).toEqual([text, undefined]);
});
