/** `npm run token -- --sub USER [--role buyer|organizer|operator]`: prints a token for the cluster of `npm start`. */
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { z } from "zod";
import { readConfig, secret } from "../../shared/process/config.ts";
import { parseUserId } from "../../shared/domain/ids.ts";
import { mintToken, ROLES } from "../../router/callers/tokens.ts";

const DAY_SECONDS = 24 * 3600;
const settings = z.object({ AUTH_JWT_SECRET: secret.optional(), DATA_DIR: z.string().default(".onsale") });
const stateFile = z.object({ jwtSecret: z.string() });

try {
  const config = readConfig(settings, process.env);
  const { values } = parseArgs({ options: { sub: { type: "string" }, role: { type: "string" } } });
  const sub = parseUserId(values.sub);
  const role = ROLES.find((candidate) => candidate === (values.role ?? "buyer"));
  if (values.sub !== undefined && sub === undefined)
    throw new Error("a sub is 1 to 255 characters that can all be seen, with no space at its ends");
  if (sub === undefined || role === undefined) {
    throw new Error(`use: npm run token -- --sub USER [--role ${ROLES.join("|")}]`);
  }
  const key = config.AUTH_JWT_SECRET ?? keptSecret(join(config.DATA_DIR, "state.json"));
  console.log(await mintToken({ secret: key, sub, role, ttlSeconds: DAY_SECONDS }));
} catch (error) {
  console.error(`token: ${error instanceof Error ? error.message : String(error)}`);
  process.exit(1);
}

function keptSecret(file: string): string {
  if (!existsSync(file)) throw new Error(`set AUTH_JWT_SECRET, or run npm start first (there is no ${file})`);
  return stateFile.parse(JSON.parse(readFileSync(file, "utf8"))).jwtSecret;
}
