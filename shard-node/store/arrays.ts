/** Arrays of many commands, as parameters of one statement. */

/**
 * An array as PostgreSQL reads it (manual §8.15.2), of elements that need no quotes: ids, numbers and our own words. The
 * driver would look at every character. Text that people chose goes through `textArray`.
 */
export function plainArray(elements: readonly (string | number)[]): string {
  return `{${elements.join(",")}}`;
}

/** An array of any text. JSON quotes text like PostgreSQL, except for escapes; with one, each element is quoted here. */
export function textArray(elements: readonly string[]): string {
  const json = JSON.stringify(elements);
  return json.includes("\\")
    ? `{${elements.map((element) => `"${element.replace(/["\\]/g, "\\$&")}"`).join(",")}}`
    : `{${json.slice(1, -1)}}`;
}
