/**
 * Dashboards as data, and the only door to Grafana's library, which makes Grafana's JSON of them. A test runs every query,
 * so a panel says what has to be there for its query to show something.
 */
import type { Builder, Dataquery } from "@grafana/grafana-foundation-sdk/cog";
import { ReduceDataOptionsBuilder, VisibilityMode } from "@grafana/grafana-foundation-sdk/common";
import {
  type Dashboard,
  DashboardBuilder,
  DatasourceVariableBuilder,
  type Panel,
  RowBuilder,
} from "@grafana/grafana-foundation-sdk/dashboard";
import { DataqueryBuilder } from "@grafana/grafana-foundation-sdk/prometheus";
import { PanelBuilder as StatBuilder } from "@grafana/grafana-foundation-sdk/stat";
import { PanelBuilder as TableBuilder } from "@grafana/grafana-foundation-sdk/table";
import { PanelBuilder as TimeseriesBuilder } from "@grafana/grafana-foundation-sdk/timeseries";

/** A query in PromQL, and the name of its series. `$__rate_interval` is Grafana's: at least four scrapes. */
export interface Query {
  readonly expr: string;
  readonly legend: string;
}

/** A unit of Grafana's that the dashboards use. */
type Unit = "short" | "reqps" | "s" | "percentunit" | "bytes" | "ops";

/** Who measures it: routers, nodes and the auditor; the servers around them, by exporters; or a run of k6. */
export type Source = "onsale" | "servers" | "k6";

export interface MetricPanel {
  readonly kind: "lines" | "number";
  readonly title: string;
  /** The question that it answers. */
  readonly asks: string;
  readonly unit: Unit;
  readonly source: Source;
  readonly queries: readonly Query[];
}

/** A table out of each shard's PostgreSQL: one panel for each datasource whose name begins with `shard-`. */
export interface ShardTable {
  readonly kind: "table";
  readonly title: string;
  readonly asks: string;
  readonly sql: string;
}

export interface DashboardSpec {
  /** Also the name of its file. */
  readonly uid: string;
  readonly title: string;
  readonly asks: string;
  readonly rows: readonly {
    readonly title: string;
    readonly panels: readonly (MetricPanel | ShardTable)[];
  }[];
}

const PROMETHEUS = { type: "prometheus", uid: "prometheus" };
const POSTGRESQL = "grafana-postgresql-datasource";
const HEIGHT = 8;
const NUMBER_HEIGHT = 4;
const COLUMNS = 24;

/** Grafana's JSON of a dashboard, the same for the same description. */
export function buildDashboard({ uid, title, asks, rows }: DashboardSpec): Dashboard {
  const panels = rows.flatMap((row) => row.panels);
  const dashboard = new DashboardBuilder(title)
    .uid(uid)
    .description(asks)
    .tags(["onsale"])
    .time({ from: "now-15m", to: "now" })
    .refresh("5s")
    .timezone("browser")
    .readonly();
  if (panels.some(({ kind }) => kind === "table")) {
    const shards = new DatasourceVariableBuilder("shard").label("Shard").type(POSTGRESQL).regex("/^shard-/");
    dashboard.withVariable(shards.multi(true).includeAll(true).current({ text: "All", value: "$__all" }));
  }
  for (const row of rows) {
    dashboard.withRow(new RowBuilder(row.title));
    for (const panel of row.panels) dashboard.withPanel(builderOf(panel));
  }
  return dashboard.build();
}

function builderOf(panel: MetricPanel | ShardTable): Builder<Panel> {
  switch (panel.kind) {
    case "lines": {
      const lines = new TimeseriesBuilder()
        .height(HEIGHT)
        .span(COLUMNS / 3)
        .min(0)
        .fillOpacity(10);
      return withQueries(lines.showPoints(VisibilityMode.Never), panel);
    }
    case "number": {
      const latest = new ReduceDataOptionsBuilder().calcs(["lastNotNull"]);
      return withQueries(
        new StatBuilder()
          .reduceOptions(latest)
          .height(NUMBER_HEIGHT)
          .span(COLUMNS / 6),
        panel,
      );
    }
    case "table":
      return new TableBuilder()
        .title(`${panel.title} ($shard)`)
        .description(panel.asks)
        .datasource({ type: POSTGRESQL, uid: "$shard" })
        .repeat("shard")
        .repeatDirection("h")
        .height(HEIGHT)
        .span(COLUMNS / 2)
        .withTarget(postgresQuery(panel.sql));
  }
}

function withQueries(builder: TimeseriesBuilder | StatBuilder, panel: MetricPanel): Builder<Panel> {
  builder.title(panel.title).description(panel.asks).unit(panel.unit).datasource(PROMETHEUS);
  for (const [index, { expr, legend }] of panel.queries.entries()) {
    const refId = String.fromCharCode("A".charCodeAt(0) + index);
    builder.withTarget(new DataqueryBuilder().refId(refId).expr(expr).legendFormat(legend).range());
  }
  return builder;
}

/** The library has no query of this datasource, which is built into Grafana. */
function postgresQuery(rawSql: string): Builder<Dataquery> {
  const query = {
    refId: "A",
    datasource: { type: POSTGRESQL, uid: "$shard" },
    editorMode: "code",
    format: "table",
    rawQuery: true,
    rawSql,
    _implementsDataqueryVariant: () => undefined,
  };
  return { build: () => query };
}
