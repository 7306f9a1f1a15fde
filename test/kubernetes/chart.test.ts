/** What Helm makes of the chart. No cluster is asked. */
import { execFileSync, spawnSync } from "node:child_process";
import { globSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { expect, test } from "vitest";
import { parse, parseAllDocuments, stringify } from "yaml";

const root = resolve(import.meta.dirname, "../..");
const CHART = `${root}/deploy/kubernetes/onsale`;
const NAMESPACE = "tickets";
/** The oldest Kubernetes of Chart.yaml: a Helm that was built without a version takes an older one. */
const TEMPLATE = [
  "template",
  "onsale",
  CHART,
  "--kube-version",
  "1.30",
  "--namespace",
  NAMESPACE,
  "--values",
  "-",
];

interface Container {
  readonly name: string;
  readonly command?: readonly string[];
  readonly env?: readonly {
    readonly name: string;
    readonly value?: string;
    readonly valueFrom?: { readonly secretKeyRef?: { readonly name: string; readonly key: string } };
  }[];
  readonly resources: { readonly limits: { readonly memory: string } };
  readonly securityContext: object;
  readonly volumeMounts?: readonly { readonly name: string; readonly mountPath: string }[];
}
interface PodSpec {
  readonly automountServiceAccountToken?: boolean;
  readonly securityContext: object;
  readonly containers: readonly Container[];
  readonly volumes?: readonly {
    readonly name: string;
    readonly secret?: { readonly secretName: string; readonly items: readonly { readonly key: string }[] };
  }[];
}
type Labels = Readonly<Record<string, string>>;
interface Manifest {
  readonly kind: string;
  readonly metadata: { readonly name: string; readonly labels?: Labels; readonly annotations?: Labels };
  readonly spec: unknown;
  readonly data?: Labels;
}

/** Everything that the chart makes with these values over its own. */
function render(values: object = {}): Manifest[] {
  const text = execFileSync("helm", TEMPLATE, {
    encoding: "utf8",
    input: stringify(values),
    // In its errors instead of on the screen.
    stdio: "pipe",
  });
  return parseAllDocuments(text).flatMap((document) => (document.toJS() as Manifest | null) ?? []);
}

/** What Helm says of values that it refuses. */
function refusalOf(values: object): string {
  const { status, stderr } = spawnSync("helm", TEMPLATE, {
    encoding: "utf8",
    input: stringify(values),
  });
  expect(status).toBe(1);
  return stderr;
}

/** The pods of everything that makes some, with their labels. */
function podsOf(manifests: readonly Manifest[]): { name: string; labels: Labels; pod: PodSpec }[] {
  return manifests.flatMap(({ kind, metadata, spec }) => {
    if (kind === "Pod") return [{ name: metadata.name, labels: metadata.labels ?? {}, pod: spec as PodSpec }];
    if (!["Deployment", "StatefulSet", "Job"].includes(kind)) return [];
    const { template } = spec as { template: { metadata: { labels: Labels }; spec: PodSpec } };
    return [{ name: metadata.name, labels: template.metadata.labels, pod: template.spec }];
  });
}

/** All that can be switched on, at once. */
const EVERYTHING = {
  auth: { jwksUrl: "https://id.example/keys", issuer: "id", audience: "tickets" },
  tracing: { endpoint: "http://collector.example:4318", samplerArg: 0.5 },
  postgres: {
    instances: 2,
    readFromReplica: true,
    pooler: { enabled: true },
    backup: { objectStore: "store" },
    walStorage: { size: "10Gi", className: "fast" },
    storage: { className: "fast" },
  },
  routers: {
    autoscaling: { enabled: false },
    preStopSeconds: 10,
    settings: { RATE_LIMIT_PER_USER: 5_000_000 },
  },
  nodes: { replicas: 2, settings: { LANES: 4 } },
  readSide: { enabled: true, settings: { EXPORTS_MAX: 3 }, postgres: { readFromReplica: false } },
  expose: { type: "httpRoute", hosts: ["tickets.example"], httpRoute: { parentRefs: [{ name: "public" }] } },
  monitoring: { enabled: true, labels: { release: "prometheus" }, dashboards: { enabled: true } },
  scheduling: { nodeSelector: { pool: "tickets" }, tolerations: [{ key: "tickets", operator: "Exists" }] },
  image: { pullSecrets: [{ name: "registry" }] },
};

test("K1: helm lint has no objection", () => {
  const { status, stdout } = spawnSync("helm", ["lint", "--strict", "--kube-version", "1.30", CHART], {
    encoding: "utf8",
  });
  expect([status, stdout]).toEqual([0, expect.stringContaining("0 chart(s) failed")]);
});

test("K1: values that nobody reads, or out of bounds, are refused with their place", () => {
  for (const [values, said] of [
    [{ router: {} }, "additional properties 'router' not allowed"],
    [{ routers: { settings: { LANES: 2 } } }, "invalid propertyName 'LANES'"],
    [{ routers: { drainGraceMs: 9_001 } }, "/routers/drainGraceMs"],
    [{ shards: [] }, "/shards"],
    [{ shards: [{ name: "Shard" }] }, "/shards/0/name"],
    [{ shards: [{ name: "catalog" }] }, "/shards/0/name"],
    [{ shards: [{ name: "read-side" }] }, "/shards/0/name"],
    [{ shards: [{ name: "a" }, { name: "a" }] }, "shards: a is there twice"],
    [{ shards: [{ name: "a", postgres: { login: "onsale" } }] }, "/shards/0/postgres"],
    [{ redis: { mode: "url" } }, "/redis/secret"],
    [{ expose: { type: "ingress" } }, "/expose/hosts"],
    [{ expose: { type: "httpRoute", hosts: ["a.example"] } }, "/expose/httpRoute/parentRefs"],
    [{ nodes: { resources: { limits: { memory: "1.5Gi" } } } }, "/nodes/resources/limits/memory"],
    [{ postgres: { readFromReplica: true } }, "readFromReplica needs exactly two instances"],
    // It would archive into the backup that it was made from.
    [
      { postgres: { backup: { objectStore: "s" }, recovery: { serverName: "onsale-catalog" } } },
      "must be another",
    ],
  ] as const)
    expect(refusalOf(values)).toContain(said);
});

test("K1: a setting of values reaches its role, a large number as it is", () => {
  const pods = podsOf(render(EVERYTHING));
  const envOf = (name: string) => pods.find((each) => each.name === name)?.pod.containers[0]?.env ?? [];
  expect(envOf("onsale-router")).toContainEqual({ name: "RATE_LIMIT_PER_USER", value: "5000000" });
  expect(envOf("onsale-node-shard-a")).toContainEqual({ name: "LANES", value: "4" });
});

test("K2: every pod meets Pod Security restricted, read-only, without a token, within its memory", () => {
  for (const manifests of [render(), render(EVERYTHING)]) {
    const pods = podsOf(manifests);
    expect(pods.length).toBeGreaterThan(6);
    for (const { name, pod } of pods) {
      expect([name, pod]).toMatchObject([
        name,
        {
          automountServiceAccountToken: false,
          securityContext: { runAsNonRoot: true, seccompProfile: { type: "RuntimeDefault" } },
        },
      ]);
      for (const { command = [], resources, securityContext } of pod.containers) {
        expect([name, securityContext]).toEqual([
          name,
          { allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: { drop: ["ALL"] } },
        ]);
        const { memory } = resources.limits;
        const mebibytes = Number.parseInt(memory) * (memory.endsWith("Gi") ? 1024 : 1);
        expect(mebibytes).toBeGreaterThan(0);
        const heaps = command.flatMap((word) => /^--max-old-space-size=(\d+)$/.exec(word)?.[1] ?? []);
        for (const heap of heaps)
          expect([name, Number(heap)]).toEqual([name, Math.floor((mebibytes * 2) / 3)]);
      }
    }
  }
});

test("K5: nodes and tools reach PostgreSQL by verified TLS, each its own databases; routers have no password of one", () => {
  const manifests = render(EVERYTHING);
  const clusters = manifests.filter(({ kind }) => kind === "Cluster").map(({ metadata }) => metadata.name);
  expect(clusters).toEqual(["onsale-catalog", "onsale-shard-a", "onsale-shard-b", "onsale-read-side"]);
  const reached = new Map<string, string[]>();
  for (const { name, pod } of podsOf(manifests)) {
    const [container] = pod.containers;
    const secrets = (container?.env ?? []).flatMap(({ valueFrom }) => valueFrom?.secretKeyRef?.name ?? []);
    const databases = clusters.filter((cluster) =>
      secrets.some((secret) => secret === `${cluster}-onsale` || secret === `${cluster}-onsale-2`),
    );
    reached.set(name, databases);
    const urls = (container?.env ?? []).flatMap(({ value = "" }) => value.match(/postgres:[^,]+/g) ?? []);
    for (const url of urls) {
      const [, cluster = "", file = ""] =
        /@(onsale-[a-z-]+)-(?:rw|ro|pooler):5432\/\w+\?sslmode=verify-full&sslrootcert=(.+)$/.exec(url) ?? [];
      const mount = container?.volumeMounts?.find(({ mountPath }) => `${mountPath}/ca.crt` === file);
      const volume = pod.volumes?.find((each) => each.name === mount?.name);
      // Of the authority its certificate only, not its key.
      expect([name, url, volume?.secret]).toEqual([
        name,
        url,
        { secretName: `${cluster}-ca`, items: [{ key: "ca.crt", path: "ca.crt" }] },
      ]);
    }
  }
  expect(Object.fromEntries(reached)).toMatchObject({
    "onsale-router": [],
    "onsale-node-shard-a": ["onsale-catalog", "onsale-shard-a"],
    "onsale-node-shard-b": ["onsale-catalog", "onsale-shard-b"],
    "onsale-readside": ["onsale-read-side"],
    "onsale-migrate-1": clusters.slice(0, -1),
    "onsale-auditor": ["onsale-catalog"],
    "onsale-redis": [],
    "onsale-rabbitmq": [],
    "onsale-test": [],
  });
});

test("K1: a shard is made from a backup of it, and archives to another place from then on", () => {
  const shards = [
    { name: "shard-a" },
    {
      name: "shard-b",
      postgres: {
        backup: { objectStore: "store", serverName: "onsale-shard-b-2" },
        recovery: { serverName: "onsale-shard-b", targetTime: "2030-06-01T20:14:30Z" },
      },
    },
  ];
  const specOf = (name: string) => render({ shards }).find(({ metadata }) => metadata.name === name)?.spec;
  expect(specOf("onsale-shard-b")).toMatchObject({
    bootstrap: {
      recovery: {
        source: "backup",
        database: "shard",
        owner: "onsale",
        secret: { name: "onsale-shard-b-onsale" },
        recoveryTarget: { targetTime: "2030-06-01T20:14:30Z" },
      },
    },
    externalClusters: [
      {
        name: "backup",
        plugin: {
          name: "barman-cloud.cloudnative-pg.io",
          parameters: { barmanObjectName: "store", serverName: "onsale-shard-b" },
        },
      },
    ],
    plugins: [{ parameters: { barmanObjectName: "store", serverName: "onsale-shard-b-2" } }],
  });
  expect(specOf("onsale-shard-a")).toMatchObject({ bootstrap: { initdb: { database: "shard" } } });
});

test("K5: databases and secrets outlive their release, unless that is asked for", () => {
  const kept = (values: object) =>
    render(values)
      .filter(({ metadata }) => metadata.annotations?.["helm.sh/resource-policy"] === "keep")
      .map(({ kind, metadata }) => `${kind} ${metadata.name}`);
  const names = ["catalog", "shard-a", "shard-b"].map((name) => `onsale-${name}`);
  const secrets = names.flatMap((name) => [`Secret ${name}-onsale`, `Secret ${name}-onsale-2`]);
  expect(kept({}).toSorted()).toEqual(
    [...names.map((name) => `Cluster ${name}`), ...secrets, "Secret onsale-secrets"].toSorted(),
  );
  expect(kept({ postgres: { keep: false } }).filter((name) => name.startsWith("Cluster"))).toEqual([]);
  // With secrets of somebody's own there is none of the chart's.
  expect(render({ secrets: { existing: "mine" } }).filter(({ kind }) => kind === "Secret")).toEqual([]);
});

test("K4: the rules on Kubernetes are those of compose and what translates for them, and promtool accepts all", () => {
  const manifests = render(EVERYTHING);
  const groupsOf = (name: string) =>
    (manifests.find(({ kind, metadata }) => kind === "PrometheusRule" && metadata.name === name)?.spec ??
      {}) as { groups?: unknown };
  for (const file of globSync("deploy/prometheus/rules/*.yml", { cwd: root })) {
    const name = `onsale-${/(\w+)\.yml$/.exec(file)?.[1]}`;
    expect(groupsOf(name)).toEqual(parse(readFileSync(`${root}/${file}`, "utf8")));
  }
  const directory = mkdtempSync(join(tmpdir(), "onsale-rules-"));
  try {
    const names = ["onsale-kubernetes", "onsale-slo", "onsale-causes"];
    for (const name of names) writeFileSync(join(directory, `${name}.yml`), stringify(groupsOf(name)));
    // A router that answers 5xx to one in ten; a volume that is nearly full; a shard without a node.
    const series = (name: string, values: string) => ({ series: name, values });
    const tests = {
      rule_files: names.map((name) => `${name}.yml`),
      evaluation_interval: "15s",
      tests: [
        {
          interval: "15s",
          input_series: [
            series('onsale_http_requests_total{job="router",instance="a",status="200"}', "0+90x40"),
            series('onsale_http_requests_total{job="router",instance="a",status="503"}', "0+10x40"),
            // It starts anew, and counts from 0.
            series('onsale_http_requests_total{job="router",instance="b",status="200"}', "0+90x20 0+90x20"),
            series('onsale_http_requests_total{job="router",instance="b",status="503"}', "0+10x20 0+10x20"),
            // It was bad long ago. Added up with the other, its count would seem to begin anew.
            series('onsale_http_requests_total{job="router",instance="c",status="503"}', "100000x40"),
            series('up{job="node",shard="shard-a"}', "1x40"),
            ...["available", "capacity"].map((of) =>
              series(
                `kubelet_volume_stats_${of}_bytes{namespace="${NAMESPACE}",persistentvolumeclaim="onsale-shard-a-1"}`,
                of === "available" ? "5x40" : "100x40",
              ),
            ),
          ],
          promql_expr_test: [
            {
              expr: "round(onsale:requests_failed:ratio_rate5m * 1000) / 1000",
              eval_time: "8m",
              exp_samples: [{ labels: "{}", value: 0.1 }],
            },
          ],
          alert_rule_test: [
            {
              alertname: "ShardDown",
              eval_time: "8m",
              exp_alerts: [
                {
                  exp_labels: { job: "node", shard: "shard-b", severity: "page" },
                  exp_annotations: {
                    summary: "Shard shard-b cannot sell, because it has no node.",
                    runbook_url: "#sharddown",
                  },
                },
              ],
            },
            {
              alertname: "DiskFilling",
              eval_time: "8m",
              exp_alerts: [
                {
                  exp_labels: { job: "disk", mountpoint: "onsale-shard-a-1", severity: "page" },
                  exp_annotations: {
                    summary:
                      "Only 5% of the disk under onsale-shard-a-1 is free; PostgreSQL stops when it is full.",
                    runbook_url: "#diskfilling",
                  },
                },
              ],
            },
          ],
        },
      ],
    };
    writeFileSync(join(directory, "tests.yml"), stringify(tests));
    const { status, stdout, stderr } = spawnSync("promtool", ["test", "rules", "tests.yml"], {
      cwd: directory,
      encoding: "utf8",
    });
    expect([status, stdout + stderr]).toEqual([0, expect.stringContaining("SUCCESS")]);
  } finally {
    rmSync(directory, { recursive: true });
  }
});

test("K4: the dashboards on Kubernetes are those of compose", () => {
  const maps = render(EVERYTHING).filter(
    ({ kind, metadata }) => kind === "ConfigMap" && metadata.labels?.["grafana_dashboard"] === "1",
  );
  const shown = Object.assign({}, ...maps.map(({ data }) => data)) as Labels;
  const files = globSync("*.json", { cwd: `${root}/deploy/grafana/dashboards` });
  expect(Object.keys(shown).toSorted()).toEqual(files.toSorted());
  for (const file of files)
    expect(shown[file]).toBe(readFileSync(`${root}/deploy/grafana/dashboards/${file}`, "utf8"));
});

// -- K3: policies, tried out as a network would read them --------------------------------------------------------------

interface Peer {
  readonly podSelector?: Selector;
  readonly namespaceSelector?: Selector;
}
interface Selector {
  readonly matchLabels?: Labels;
  readonly matchExpressions?: readonly { readonly key: string; readonly values: readonly string[] }[];
}
interface FlowRule {
  readonly from?: readonly Peer[];
  readonly to?: readonly Peer[];
  readonly ports: readonly { readonly port: number }[];
}
interface Policy {
  readonly podSelector: Selector;
  readonly policyTypes: readonly string[];
  readonly ingress: readonly FlowRule[] | null;
  readonly egress: readonly FlowRule[] | null;
}
/** A pod, and what the table calls it. */
interface Party {
  readonly party: string;
  readonly shard?: string;
  readonly namespace: string;
  readonly labels: Labels;
}

const selects = ({ matchLabels = {}, matchExpressions = [] }: Selector, labels: Labels): boolean =>
  Object.entries(matchLabels).every(([key, value]) => labels[key] === value) &&
  matchExpressions.every(({ key, values }) => values.includes(labels[key] ?? ""));

function peerIs({ podSelector = {}, namespaceSelector }: Peer, { namespace, labels }: Party): boolean {
  const there =
    namespaceSelector === undefined
      ? namespace === NAMESPACE
      : selects(namespaceSelector, { "kubernetes.io/metadata.name": namespace });
  return there && selects(podSelector, labels);
}

/** Whether the policies of `self` let it send to, or hear from, `other` at this port. */
function lets(
  policies: readonly Policy[],
  self: Party,
  direction: "ingress" | "egress",
  other: Party,
  port: number,
): boolean {
  const mine = policies.filter(({ podSelector }) => selects(podSelector, self.labels));
  // A pod without a policy may do everything.
  if (mine.length === 0) return true;
  return mine.some(
    (policy) =>
      !policy.policyTypes.includes(direction === "ingress" ? "Ingress" : "Egress") ||
      (policy[direction] ?? []).some(({ from, to, ports }) => {
        const peers = from ?? to;
        return (
          ports.some((each) => each.port === port) &&
          (peers === undefined || peers.some((peer) => peerIs(peer, other)))
        );
      }),
  );
}

/** They are everywhere. */
const ANYWHERE = ["clients", "kubernetes", "keys", "collector", "backups"];
const OF_A_SHARD = ["node", "shard", "pooler"];
const NAMESPACES = {
  prometheus: "monitoring",
  operator: "cnpg-system",
  dns: "kube-system",
  stranger: "elsewhere",
};

test.for([
  ["with little", {}, ["redis", "rabbitmq"]],
  ["with everything", EVERYTHING, ["redis", "rabbitmq", "keys", "tracing", "pooler", "backups", "readside"]],
  ["without servers beside", { redis: { mode: "none" }, rabbitmq: { mode: "none" } }, []],
] as const)("K3: policies %s allow what the table shows, and nothing else", ([, values, inUse]) => {
  const rows = [
    ...readFileSync(`${root}/docs/kubernetes.md`, "utf8").matchAll(
      /^\| `(\w+)` +\| `(\w+)` +\| ([\d, ]+?) +\| (?:`(\w+)`)? +\|$/gm,
    ),
  ].map(([, from = "", to = "", ports = "", only]) => ({
    from,
    to,
    ports: ports.split(", ").map(Number),
    only,
  }));
  const flows = rows.filter(({ only }) => only === undefined || (inUse as readonly string[]).includes(only));
  const manifests = render(values);
  const policies = manifests.filter(({ kind }) => kind === "NetworkPolicy").map(({ spec }) => spec as Policy);
  const inside: Party[] = [
    ...podsOf(manifests).map(({ labels }) => ({
      party: labels["app.kubernetes.io/component"] ?? "",
      shard: labels["onsale/shard"] ?? "",
      namespace: NAMESPACE,
      labels,
    })),
    // CloudNativePG labels its pods like this.
    ...manifests
      .filter(({ kind }) => kind === "Cluster" || kind === "Pooler")
      .map(({ kind, metadata }) => ({
        party: kind === "Pooler" ? "pooler" : (metadata.labels?.["app.kubernetes.io/component"] ?? ""),
        shard: metadata.labels?.["onsale/shard"] ?? "",
        namespace: NAMESPACE,
        labels: { [kind === "Pooler" ? "cnpg.io/poolerName" : "cnpg.io/cluster"]: metadata.name },
      })),
  ];
  expect(inside.length).toBeGreaterThan(8);
  const outside: Party[] = Object.entries(NAMESPACES).map(([party, namespace]) => ({
    party,
    namespace,
    labels: {},
  }));
  const is = (name: string, { party }: Party): boolean =>
    name === party || name === "everybody" || ANYWHERE.includes(name);
  const ports = new Set([22, ...rows.flatMap((row) => row.ports)]);

  const wrong: unknown[] = [];
  for (const self of inside) {
    for (const other of [...inside, ...outside]) {
      for (const port of ports) {
        for (const direction of ["ingress", "egress"] as const) {
          const mine = direction === "ingress" ? "to" : "from";
          const theirs = direction === "ingress" ? "from" : "to";
          const expected = flows.some(
            (flow) =>
              (flow[mine] === self.party || flow[mine] === "everybody") &&
              is(flow[theirs], other) &&
              flow.ports.includes(port) &&
              (self.shard === other.shard ||
                !OF_A_SHARD.includes(flow.from) ||
                !OF_A_SHARD.includes(flow.to)),
          );
          if (lets(policies, self, direction, other, port) !== expected)
            wrong.push([self.party, self.shard, direction, other.party, other.shard, port, expected]);
        }
      }
    }
  }
  expect(wrong).toEqual([]);
});
