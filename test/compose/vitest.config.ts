import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    include: ["test/compose/*.test.ts"],
    // One cluster at a time: it has twenty containers.
    fileParallelism: false,
    testTimeout: 300_000,
    hookTimeout: 300_000,
  },
});
