/**
 * A body as Node.js sends it at the least cost: a string, which it joins with the headers into one write, where bytes would
 * be a second one; and as latin1 where every character is ASCII, which needs no encoding.
 */
export interface ResponseBody {
  readonly text: string;
  readonly encoding: "latin1" | "utf8";
  /** Of the body, for `content-length`. */
  readonly bytes: number;
}

export function bodyOfJson(value: unknown): ResponseBody {
  const text = JSON.stringify(value);
  const bytes = Buffer.byteLength(text);
  return { text, bytes, encoding: bytes === text.length ? "latin1" : "utf8" };
}
