/** The settings of `npm run migrate` and `npm run move-slot`. */
import { z } from "zod";
import { integer } from "../shared/process/config.ts";
import { postgresUrl } from "../shared/database/url.ts";
import { parseShardId } from "../shared/domain/ids.ts";
import type { ShardDatabase } from "./shards.ts";

const shardList = z
  .string({ error: "is required, e.g. shard-0=postgres://…,shard-1=postgres://…" })
  .transform((list, context): ShardDatabase[] => {
    // A comma also separates the hosts of one URL. A new shard begins with `name=`.
    const shards = list.split(/,(?=\s*[^,=]*=\w+:)/).map((entry) => {
      const [name = "", ...rest] = entry.trim().split("=");
      const id = parseShardId(name);
      const databaseUrl = rest.join("=");
      if (id === undefined || !postgresUrl.safeParse(databaseUrl).success) {
        context.addIssue({ code: "custom", message: `"${name}=…" is not of the form shard-0=postgres://…` });
        return undefined;
      }
      return { id, databaseUrl };
    });
    const ids = shards.map((shard) => shard?.id);
    if (new Set(ids).size < ids.length) context.addIssue({ code: "custom", message: "names a shard twice" });
    return shards.filter((shard) => shard !== undefined);
  });

export const catalogConfig = z.object({ CATALOG_URL: postgresUrl });
export const migrateConfig = catalogConfig.extend({
  SHARD_URLS: shardList,
  /** How long databases are waited for that are only just being made. */
  WAIT_SECONDS: integer({ min: 0, max: 3_600, default: 0 }),
  /** What to do when databases have a newer schema, as after a return to the version before: refuse, or leave them alone. */
  NEWER_SCHEMA: z.enum(["refuse", "keep"], { error: "must be refuse or keep" }).default("refuse"),
});
