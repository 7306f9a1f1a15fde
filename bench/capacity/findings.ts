/** Everything that the capacity part found out. */
import type { Calibration } from "./costs.ts";
import type { Demand } from "./demand.ts";
import type { Plan } from "./model.ts";
import type { Asked } from "./options.ts";
import type { ClusterRun } from "./simulation/cluster.ts";
import type { Validation } from "./validation.ts";

export interface Findings {
  readonly asked: Asked;
  readonly calibration: Calibration;
  readonly demand: Demand;
  readonly plan: Plan;
  /** With the costs of each round. */
  readonly plans: readonly Plan[];
  readonly validation: Validation;
  /** undefined when there is nothing to simulate: no number of routers carries the load. */
  readonly run: ClusterRun | undefined;
  readonly lost: number;
}
