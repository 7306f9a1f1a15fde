/** The report as one page for a browser: no script, no other host, everything in the file. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { type Figure, written } from "../figures.ts";
import type { Plot } from "../plots.ts";
import { type Table, writtenCell } from "../tables.ts";
import { Palette, svgOf } from "./charts.ts";
import { auditLine, machineLine, type PartResult, type Results, verdictOn } from "./results.ts";

export function pageOf(results: Results): string {
  const { parts, failures, command, date, machine, tookSeconds } = results;
  const problems = [
    ...failures.map(({ part, reason }) => `${part}: ${reason}`),
    ...parts.flatMap(({ part, problems = [] }) => problems.map((problem) => `${part}: ${problem}`)),
  ];
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>onsale benchmark, ${escaped(date.slice(0, 16).replace("T", " "))}</title>
<style>
${readFileSync(join(import.meta.dirname, "page.css"), "utf8").trim()}
</style>
</head>
<body>
<header>
<h1>onsale benchmark</h1>
<dl>
${[
  ["When", `${date.slice(0, 16).replace("T", " ")} UTC, ${tookSeconds} s`],
  ["Machine", machineLine(machine)],
  ["Command", command],
  ["Audit", auditLine(parts)],
]
  .map(([name = "", value = ""]) => `<dt>${name}</dt><dd>${escaped(value)}</dd>`)
  .join("\n")}
</dl>
${problems.map((problem) => `<p class="problem">${escaped(problem)}</p>`).join("\n")}
<nav>${parts.map(({ part }) => `<a href="#${escaped(part)}">${escaped(part)}</a>`).join("")}</nav>
</header>
${targetsOf(parts)}
${parts.map(sectionOf).join("\n")}
</body>
</html>
`;
}

/** All figures that have a target, of all parts. */
function targetsOf(parts: readonly PartResult[]): string {
  const rows = parts.flatMap(({ part, figures }) =>
    figures.filter(({ target }) => target !== undefined).map((figure) => ({ part, figure })),
  );
  if (rows.length === 0) return "";
  const missed = rows.filter(({ figure }) => figure.target?.met === false).length;
  const cells = rows.map(
    ({ part, figure }) =>
      `<tr><td><a href="#${escaped(part)}">${escaped(part)}</a></td>${figureCells(figure, false)}</tr>`,
  );
  return `<section>
<h2>Targets <small>${missed === 0 ? "all met" : `${missed} of ${rows.length} not met`}</small></h2>
<table><thead><tr><th>part</th><th>figure</th><th class="number">value</th><th>target</th><th></th></tr></thead>
<tbody>${cells.join("\n")}</tbody></table>
</section>`;
}

function sectionOf(result: PartResult): string {
  const { part, title, figures, tables = [], plots = [], notes = [] } = result;
  const measured = result.secondsAMeasurement > 0 ? `${result.secondsAMeasurement} s a measurement, ` : "";
  const times = `${measured}${result.tookSeconds} s in all`;
  const palette = new Palette();
  const rows = figures.map((figure) => `<tr>${figureCells(figure, true)}</tr>`).join("\n");
  const figureTable = `<table><thead><tr><th>figure</th><th class="number">value</th><th>target</th><th></th><th>note</th></tr></thead>
<tbody>${rows}</tbody></table>`;
  return `<section id="${escaped(part)}">
<h2>${escaped(part)} <small>${escaped(title)} · ${times}</small></h2>
${figures.length === 0 ? "" : figureTable}
${notes.map((note) => `<p>${escaped(note)}</p>`).join("\n")}
${tables.map(tableOf).join("\n")}
<div class="plots">${plots.map((plot) => figureOf(plot, palette)).join("\n")}</div>
</section>`;
}

function figureCells(figure: Figure, withNote: boolean): string {
  const verdict = verdictOn(figure);
  return [
    `<td>${escaped(figure.name)}</td>`,
    `<td class="number">${escaped(written(figure.value, figure.unit))}</td>`,
    `<td>${escaped(figure.target?.wanted ?? "")}</td>`,
    `<td>${verdict === "" ? "" : `<b class="${verdict === "met" ? "met" : "missed"}">${verdict}</b>`}</td>`,
    withNote ? `<td class="note">${escaped(figure.note ?? "")}</td>` : "",
  ].join("");
}

function tableOf({ title, columns, rows, note }: Table): string {
  const isNumeric = columns.map((_, index) => rows.some((row) => typeof row[index] === "number"));
  const cell = (tag: "td" | "th", index: number, text: string) =>
    `<${tag}${isNumeric[index] === true ? ' class="number"' : ""}>${escaped(text)}</${tag}>`;
  const head = columns.map(({ name }, index) => cell("th", index, name)).join("");
  const body = rows.map(
    (row) =>
      `<tr>${columns.map((column, index) => cell("td", index, writtenCell(row[index] ?? null, column))).join("")}</tr>`,
  );
  return `<h3>${escaped(title)}</h3>
<div class="wide"><table><thead><tr>${head}</tr></thead><tbody>${body.join("\n")}</tbody></table></div>
${note === undefined ? "" : `<p class="note">${escaped(note)}</p>`}`;
}

function figureOf(plot: Plot, palette: Palette): string {
  const note = plot.note === undefined ? "" : `<small>${escaped(plot.note)}</small>`;
  return `<figure><figcaption>${escaped(plot.title)}${note}</figcaption>${svgOf(plot, palette)}</figure>`;
}

function escaped(text: string): string {
  return text
    .replaceAll("&", "&amp;")
    .replaceAll("<", "&lt;")
    .replaceAll(">", "&gt;")
    .replaceAll('"', "&quot;");
}
