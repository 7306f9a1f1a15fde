/**
 * JSON of a body. Of a member that is given twice JSON.parse keeps the last, but what looked at the body on its way, such as a
 * gateway or a log, may have kept the first (RFC 8259 §4). So such a text is refused.
 */
import { excerptOf, Problem } from "./problems.ts";

/** Returns the value of a text. Throws a Problem when it is no JSON or gives a member twice. */
export function jsonFrom(text: string): unknown {
  const value = parsed(text);
  // Most bodies are bookings, which have one member.
  if (text.indexOf(":") === text.lastIndexOf(":")) return value;
  // A member that was given again has overwritten the first, however its name was spelled.
  if (membersWrittenIn(text) === membersOf(value)) return value;
  throw new Problem("invalid_request", "The body's JSON gives a member twice.");
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    const reason = text.startsWith("\ufeff")
      ? "It begins with a byte order mark."
      : excerptOf(String((error as Error).message));
    throw new Problem("invalid_request", `The body is not JSON. ${reason}`);
  }
}

const [QUOTE, BACKSLASH, COLON] = [0x22, 0x5c, 0x3a];

/** The colons outside of strings: one for each member. The text is JSON, so backslashes are in strings only. */
function membersWrittenIn(text: string): number {
  let members = 0;
  let inString = false;
  for (let at = 0; at < text.length; at += 1) {
    const unit = text.charCodeAt(at);
    if (unit === QUOTE) inString = !inString;
    else if (unit === BACKSLASH) at += 1;
    else if (unit === COLON && !inString) members += 1;
  }
  return members;
}

/** Not recursive: a body can be as deep as it is long. */
function membersOf(value: unknown): number {
  let members = 0;
  const objects = [value];
  for (const object of objects) {
    if (typeof object !== "object" || object === null) continue;
    const values: unknown[] = Object.values(object);
    if (!Array.isArray(object)) members += values.length;
    for (const each of values) objects.push(each);
  }
  return members;
}
