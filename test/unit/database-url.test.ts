import { expect, test } from "vitest";
import { serverName, serverOf, serverUrls } from "../../shared/database/url.ts";

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
  "postgres://user:100%@a/db",
])("P1: %j names no server", (url) => {
  expect(serverUrls(url)).toEqual([]);
});

test("P1: what a URL says of a server is decoded", () => {
  expect(serverOf("postgres://us%20er:p%40w@[::1]:5434/d%62?sslmode=disable")).toEqual({
    host: "::1",
    port: 5434,
    user: "us er",
    password: "p@w",
    database: "db",
    parameters: new URLSearchParams({ sslmode: "disable" }),
  });
  expect(serverOf("postgres://a")).toMatchObject({ host: "a", port: 5432, user: "", database: "" });
});

test("P1: messages name a server without its password", () => {
  expect(serverName("postgres://user:secret@a/db")).toBe("a:5432");
});
