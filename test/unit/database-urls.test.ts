import { expect, test } from "vitest";
import { auditorConfig } from "../../audit/auditor/config.ts";
import { findCluster } from "../../audit/location.ts";
import { catalogConfig, migrateConfig } from "../../migrations/config.ts";
import { nodeConfig } from "../../shard-node/config.ts";
import { readConfig } from "../../shared/process/config.ts";

const SECRET = "-".repeat(32);

/** Every program that is told where the catalog is. */
const READERS: Readonly<Record<string, (url: string) => string>> = {
  node: (url) =>
    readConfig(nodeConfig, {
      SHARD_ID: "shard-0",
      DATABASE_URL: url,
      CATALOG_URL: url,
      INTERNAL_TOKEN: SECRET,
    }).CATALOG_URL,
  auditor: (url) => readConfig(auditorConfig, { CATALOG_URL: url }).CATALOG_URL,
  audit: (url) => findCluster({ CATALOG_URL: url }).catalogUrl,
  "audit of the read side": (url) =>
    findCluster({ CATALOG_URL: "postgres://one/db", READ_SIDE_DATABASE_URL: url }).readSideUrl ?? "",
  migrate: (url) => readConfig(migrateConfig, { CATALOG_URL: url, SHARD_URLS: `shard-0=${url}` }).CATALOG_URL,
  "move-slot": (url) => readConfig(catalogConfig, { CATALOG_URL: url }).CATALOG_URL,
};

test.each(["postgres://user:p%40w@one:5432,two:5432/db", "postgresql://[::1]:5433/db?sslmode=verify-full"])(
  "P1: every program accepts %s",
  (url) => {
    for (const [name, read] of Object.entries(READERS)) expect([name, read(url)]).toEqual([name, url]);
  },
);

test.each(["postgres://one,/db", "postgres://one/db,two/db", "http://one/db", "postgres://user:100%@one/db"])(
  "P1: every program refuses %s",
  (url) => {
    for (const read of Object.values(READERS))
      expect(() => read(url)).toThrow("these settings cannot be used");
  },
);
