/** The cluster cannot start for a reason that its user can act on; `message` is one line and says what to do. */
export class StartError extends Error {
  override readonly name = "StartError";
}

/** What an unknown error says, on one line. */
export function reasonOf(error: unknown): string {
  const message = error instanceof Error ? error.message : String(error);
  return message // a heading and its list read as one sentence
    .split("\n")
    .map((line) => line.trim())
    .filter((line) => line !== "")
    .join("; ")
    .replaceAll(":;", ":");
}
