/**
 * Where a database is. A URL may name several servers, of which one accepts writes at a time (the form is libpq's,
 * PostgreSQL manual §32.1.1.2): `postgres://user:password@one:5432,two:5432/database`. This module knows no driver, so
 * processes that never connect can check settings with it.
 */
import { z } from "zod";

const FORM = /^(postgres(?:ql)?:\/\/(?:[^/?#]*@)?)([^@/?#]+)([/?#][^]*)?$/;

/** One URL for each server that a URL names, in its order; none when `url` is no URL of a database. */
export function serverUrls(url: string): readonly string[] {
  const [, before, hosts, after = ""] = FORM.exec(url) ?? [];
  // A comma after the hosts shows a list of URLs instead of a list of hosts.
  if (before === undefined || hosts === undefined || after.includes(",")) return [];
  const urls = hosts.split(",").map((host) => `${before}${host}${after}`);
  return urls.every(namesServer) ? urls : [];
}

/** The URL of a database as a setting. */
export const postgresUrl = z
  .string({ error: "is required" })
  .refine(
    (url) => serverUrls(url).length > 0,
    "must be a URL that starts with postgres:// or postgresql://, with several hosts separated by commas if need be",
  );

/** The parts of a URL from `serverUrls`. An IPv6 address has no brackets here. */
export function serverOf(url: string) {
  const { hostname, port, username, password, pathname, searchParams } = new URL(url);
  return {
    host: hostname.replace(/^\[|\]$/g, ""),
    port: Number(port || 5432),
    user: decodeURIComponent(username),
    password: decodeURIComponent(password),
    database: decodeURIComponent(pathname.slice(1)),
    parameters: searchParams,
  };
}

/** The server of a URL as messages show it: without the password. */
export function serverName(url: string): string {
  const { hostname, port } = new URL(url);
  return `${hostname}:${port === "" ? "5432" : port}`;
}

function namesServer(url: string): boolean {
  try {
    return serverOf(url).host !== "";
  } catch {
    return false; // not a URL, or a percent sign that encodes nothing
  }
}
