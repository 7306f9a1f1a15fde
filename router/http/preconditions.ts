/** Conditions on the version that a client knows (RFC 9110 §13.1). The tag of a version is `"<version>"`. */
import { invalid } from "./input.ts";

const TAGS = /(W\/)?"([\x21\x23-\x7e\x80-\xff]*)"/g;
const ONLY_COMMAS = /^[\t ,]*$/;
const VERSION = /^[1-9]\d{0,14}$/;

/**
 * The versions that `If-Match` admits, by strong comparison, so a weak tag admits none (§13.1.1). undefined when every version
 * will do: without the header, or with `*`. Throws a Problem when the header is no list of tags.
 */
export function versionsIn(ifMatch: string | undefined): number[] | undefined {
  if (ifMatch === undefined || ifMatch.trim() === "*") return undefined;
  const tags = [...ifMatch.matchAll(TAGS)];
  if (tags.length === 0 || !ONLY_COMMAS.test(ifMatch.replace(TAGS, "")))
    throw invalid("header", [{ path: "if-match", message: 'must be * or ETags such as "1", "2"' }]);
  return tags.flatMap(([, weak, tag = ""]) => (weak === undefined && VERSION.test(tag) ? Number(tag) : []));
}

/** True when `If-None-Match` names the tag, by weak comparison (§13.1.2). */
export function isKnown(ifNoneMatch: string | undefined, etag: string): boolean {
  if (ifNoneMatch === undefined) return false;
  if (ifNoneMatch === etag || ifNoneMatch.trim() === "*") return true;
  return ifNoneMatch.split(",").some((candidate) => candidate.trim().replace(/^W\//, "") === etag);
}
