import { configDefaults, defineConfig } from "vitest/config";
import { BaseSequencer, type TestSpecification } from "vitest/node";

/** One PostgreSQL and one Redis for all test files of a project that asks for them. */
const globalSetup = "test/support/global-setup.ts";

/** Components whose neighbours are all fakes: they need no server. */
const ALONE =
  "test/components/{booking-queue,change-publisher,cluster,coalescer,event-cache,event-changes,followers,intake,lanes,node-client,replica-reads,shard-client}.test.ts";

/** They start first, the longest ahead, so that the workers end together. */
const LONG = [
  "faults/queue",
  "cluster/npm-start.test",
  "faults/simulation",
  "cluster/bad-input",
  "faults/replicas",
  "cluster/npm-start.refusals",
  "cluster/routing",
  "faults/faults",
  "cluster/roles",
  "faults/torture",
];

class LongestFirst extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    const rank = ({ moduleId }: TestSpecification) => {
      const place = LONG.findIndex((name) => moduleId.includes(name));
      return place === -1 ? LONG.length : place;
    };
    return files.toSorted((a, b) => rank(a) - rank(b));
  }
}

export default defineConfig({
  test: {
    // One more than the cores of a small machine: many tests only wait for a deadline to pass.
    maxWorkers: 3,
    sequence: { sequencer: LongestFirst },
    testTimeout: 60_000,
    hookTimeout: 120_000,
    teardownTimeout: 20_000,
    // Of the services, by folder. What runs in child processes is not counted.
    coverage: {
      include: ["{router,shard-node,read-side,shared,audit,migrations}/**/*.ts"],
      reporter: [["text", { skipFull: true }]],
      reportOnFailure: true,
      reportsDirectory: "node_modules/.coverage",
    },
    // Each project is named after what its tests need.
    projects: [
      { extends: true, test: { name: "unit", include: ["test/unit/**/*.test.ts", ALONE] } },
      {
        extends: true,
        test: {
          name: "servers",
          include: ["test/{components,cluster}/**/*.test.ts"],
          exclude: [...configDefaults.exclude, ALONE],
          globalSetup,
        },
      },
      {
        extends: true,
        test: { name: "faults", include: ["test/faults/**/*.test.ts"], globalSetup },
      },
      // Proof that tests can fail. It runs some of them once for each planted bug.
      {
        extends: true,
        test: { name: "planted", include: ["test/planted/**/*.test.ts"], globalSetup },
      },
      {
        extends: true,
        test: { name: "bench", include: ["test/bench/**/*.test.ts"], globalSetup },
      },
      {
        extends: true,
        test: { name: "openapi", include: ["test/openapi/**/*.test.ts"], globalSetup },
      },
      {
        extends: true,
        test: {
          name: "kubernetes",
          include: ["test/kubernetes/cluster.test.ts"],
          globalSetup: "test/kubernetes/namespace.ts",
          // Of several changes under load.
          testTimeout: 600_000,
          hookTimeout: 600_000,
        },
      },
      // Where helm is installed.
      { extends: true, test: { name: "chart", include: ["test/kubernetes/chart.test.ts"] } },
      {
        extends: true,
        test: {
          name: "containers",
          include: ["test/containers/**/*.test.ts"],
          globalSetup,
          // One cluster at a time: it has twenty containers.
          fileParallelism: false,
          testTimeout: 300_000,
          hookTimeout: 300_000,
        },
      },
    ],
  },
});
