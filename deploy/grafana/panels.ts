/**
 * Dashboards as data. This file alone uses Grafana's library, which makes Grafana's JSON of them. A test runs every query,
 * so each panel names the servers that its query needs.
 */
import type { Builder, Dataquery } from "@grafana/grafana-foundation-sdk/cog";
import {
  ReduceDataOptionsBuilder,
  TableSortByFieldStateBuilder,
  VisibilityMode,
} from "@grafana/grafana-foundation-sdk/common";
import {
  type Dashboard,
  DashboardBuilder,
  DatasourceVariableBuilder,
  MappingType,
  type Panel,
  RowBuilder,
  type Threshold,
  ThresholdsConfigBuilder,
  ThresholdsMode,
} from "@grafana/grafana-foundation-sdk/dashboard";
import { DataqueryBuilder, PromQueryFormat } from "@grafana/grafana-foundation-sdk/prometheus";
import { PanelBuilder as StatBuilder } from "@grafana/grafana-foundation-sdk/stat";
import { PanelBuilder as TableBuilder } from "@grafana/grafana-foundation-sdk/table";
import { PanelBuilder as TimeseriesBuilder } from "@grafana/grafana-foundation-sdk/timeseries";

/** A query in PromQL, and the name of its series. Grafana sets `$__rate_interval` to at least four scrapes. */
export interface Query {
  readonly expr: string;
  readonly legend: string;
}

/** A unit of Grafana's that the dashboards use. */
type Unit = "short" | "suffix:/s" | "reqps" | "s" | "percentunit" | "bytes" | "ops";

/** Where its metrics come from: routers, nodes and the auditor; exporters beside other servers; or a run of k6. */
export type Source = "onsale" | "servers" | "k6";

interface Asking {
  readonly title: string;
  /** The question that it answers. */
  readonly asks: string;
  readonly source: Source;
  readonly queries: readonly Query[];
}

export interface Lines extends Asking {
  readonly kind: "lines";
  readonly unit: Unit;
}

/** Each query gives one series, without labels and never below 0, so that -1 can mean "unknown". */
export interface Numbers extends Asking {
  readonly kind: "number";
  readonly unit: Unit;
  /** Which numbers are bad. */
  readonly red?: { readonly below?: number; readonly from?: number };
}

/** A table of the current series: a column for each label, and the value. */
export interface SeriesTable extends Asking {
  readonly kind: "series";
  /** The label to sort by. */
  readonly sortBy: string;
}

export type MetricPanel = Lines | Numbers | SeriesTable;

/** A table from each shard's PostgreSQL: one panel for each datasource whose name begins with `shard-`. */
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
const TABLE_HEIGHT = 6;
const COLUMNS = 24;

/** Shown for a number that nobody measures now. It must not look like 0, nor like the last measured value. */
export const UNKNOWN = -1;

/** What Grafana asks for a panel's query. */
export function askedOf({ kind }: MetricPanel, { expr }: Query): string {
  return kind === "number" ? `(${expr}) or vector(${UNKNOWN})` : expr;
}

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
      return withQueries(lines.showPoints(VisibilityMode.Never).unit(panel.unit), panel);
    }
    case "number": {
      const number = new StatBuilder()
        .reduceOptions(new ReduceDataOptionsBuilder().calcs(["lastNotNull"]))
        .height(NUMBER_HEIGHT)
        .span(COLUMNS / 6)
        .unit(panel.unit)
        .thresholds(new ThresholdsConfigBuilder().mode(ThresholdsMode.Absolute).steps(stepsOf(panel)))
        .mappings([
          { type: MappingType.ValueToText, options: { [UNKNOWN]: { text: "unknown", color: "purple" } } },
        ]);
      return withQueries(number, panel);
    }
    case "series": {
      const table = new TableBuilder()
        .height(TABLE_HEIGHT)
        .span(COLUMNS)
        .sortBy([new TableSortByFieldStateBuilder().displayName(panel.sortBy).desc(false)])
        .withTransformation({
          id: "organize",
          options: { excludeByName: { Time: true }, renameByName: { Value: "how many" } },
        });
      return withQueries(table, panel);
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

function withQueries(
  builder: TimeseriesBuilder | StatBuilder | TableBuilder,
  panel: MetricPanel,
): Builder<Panel> {
  builder.title(panel.title).description(panel.asks).datasource(PROMETHEUS);
  for (const [index, query] of panel.queries.entries()) {
    const refId = String.fromCharCode("A".charCodeAt(0) + index);
    const target = new DataqueryBuilder().refId(refId).expr(askedOf(panel, query)).legendFormat(query.legend);
    builder.withTarget(
      panel.kind === "series" ? target.instant().format(PromQueryFormat.Table) : target.range(),
    );
  }
  return builder;
}

/** Without steps of their own, Grafana colours numbers from 80 on red. */
function stepsOf({ red }: Numbers): Threshold[] {
  if (red === undefined) return [{ value: null, color: "text" }];
  const good = { value: red.below ?? null, color: "green" };
  return [
    ...(red.below === undefined ? [] : [{ value: null, color: "red" }]),
    good,
    ...(red.from === undefined ? [] : [{ value: red.from, color: "red" }]),
  ];
}

/** This datasource is built into Grafana; the library has no query for it. */
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
