/**
 * Where a database is. Its URL may name several servers, of which one accepts writes at a time, in the form of libpq
 * (PostgreSQL manual §32.1.1.2): `postgres://user:password@one:5432,two:5432/database`. This module knows no driver,
 * so settings can be checked by processes that never connect.
 */

const FORM = /^(postgres(?:ql)?:\/\/(?:[^/?#]*@)?)([^@/?#]+)([/?#][^]*)?$/;

/** One URL for each server that a URL names, in its order; none when it is not a URL of a database. */
export function serverUrls(url: string): readonly string[] {
  const [, before, hosts, after = ""] = FORM.exec(url) ?? [];
  // A comma after the hosts is the sign of a list of URLs in place of a list of hosts.
  if (before === undefined || hosts === undefined || after.includes(",")) return [];
  const urls = hosts.split(",").map((host) => `${before}${host}${after}`);
  return urls.every((each) => URL.canParse(each) && new URL(each).hostname !== "") ? urls : [];
}

/** The server of a URL that names one, as messages show it: never with its password. */
export function serverName(url: string): string {
  const { hostname, port } = new URL(url);
  return `${hostname}:${port === "" ? "5432" : port}`;
}
