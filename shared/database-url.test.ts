import { expect, test } from "vitest";
import { serverName, serverUrls } from "./database-url.ts";

test("P1: a URL names one server or several, in the form of libpq", () => {
  expect(serverUrls("postgres://user:p%40w@a:5433,b,[::1]:5434/db?sslmode=disable")).toEqual([
    "postgres://user:p%40w@a:5433/db?sslmode=disable",
    "postgres://user:p%40w@b/db?sslmode=disable",
    "postgres://user:p%40w@[::1]:5434/db?sslmode=disable",
  ]);
  expect(serverUrls("postgresql://only")).toEqual(["postgresql://only"]);
});

test.each([
  "",
  "http://a/db",
  "postgres://",
  "postgres:///db",
  "postgres://a:x/db",
  "postgres://a,,b/db",
  "postgres://a/db,b",
])("P1: %j names no server", (url) => {
  expect(serverUrls(url)).toEqual([]);
});

test("P1: messages name a server without its password", () => {
  expect(serverName("postgres://user:secret@a/db")).toBe("a:5432");
});
