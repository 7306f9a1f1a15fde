/** The cluster cannot start, and the user can do something about it: `message` says what, on one line. */
export class StartError extends Error {
  override readonly name = "StartError";
}

/** The message of an error, on one line. */
export function reasonOf(error: unknown): string {
  const message = error instanceof Error ? error.message : String(error);
  return message // a heading and its list read as one sentence
    .split("\n")
    .map((line) => line.trim())
    .filter((line) => line !== "")
    .join("; ")
    .replaceAll(":;", ":");
}
