/** Prometheus and promtool: those on PATH, else those of the image, else none. */
import { spawnSync } from "node:child_process";
import { execa } from "execa";

const IMAGE = "prom/prometheus:v2.53.3";

/** How to run a program of Prometheus in `directory`, or why it cannot be run here. */
export type Promtool =
  { readonly program: string; readonly args: readonly string[] } | { readonly obstacle: string };

/** promtool with the project's `deploy/prometheus` at hand under the same path. */
export function findPromtool(directory: string): Promtool {
  if (spawnSync("promtool", ["--version"]).status === 0) return { program: "promtool", args: [] };
  if (spawnSync("docker", ["image", "inspect", IMAGE]).status === 0) {
    const args = ["run", "--rm", "--network", "none", "--entrypoint", "promtool"];
    return { program: "docker", args: [...args, "--volume", `${directory}:${directory}:ro`, IMAGE] };
  }
  return { obstacle: `there is neither a promtool on PATH nor the image ${IMAGE}` };
}

/** Runs promtool to its end, and gives what it said on both outputs. */
export async function runPromtool(
  { program, args }: Exclude<Promtool, { obstacle: string }>,
  ...more: readonly string[]
) {
  const { exitCode, all } = await execa(program, [...args, ...more], { all: true, reject: false });
  return { code: exitCode, said: all };
}
