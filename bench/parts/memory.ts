/** What the processes hold after a million bookings, all of them made over HTTP. */
import { bookingsOf } from "../load/plans.ts";
import { below, type Figure, type PartContext } from "../part.ts";
import { residentMegabytes } from "../processes.ts";
import { otherAnswers, rush } from "./rush.ts";

const USERS = 100_000;
const EVENTS = 5;
const PER_USER_AND_EVENT = 2;
const TARGET_MB = 250;

export async function memory(context: PartContext): Promise<readonly Figure[]> {
  const { cluster } = context;
  const eventIds: string[] = [];
  for (let number = 0; number < EVENTS; number += 1) {
    const totalTickets = USERS * PER_USER_AND_EVENT * 2;
    const event = await cluster.createEvent({ totalTickets, maxPerUser: PER_USER_AND_EVENT });
    for (let round = 0; round < PER_USER_AND_EVENT; round += 1) eventIds.push(event.id);
  }
  const report = await rush(context, "memory: a million bookings", {
    warmUpSeconds: 0,
    seconds: 0,
    requests: bookingsOf(eventIds, { secret: cluster.secret, users: USERS }),
  });
  const note = `${(report.counts["201"] ?? 0).toLocaleString("en")} bookings over HTTP in ${Math.round(report.seconds)} s, other answers: ${otherAnswers(report, "201")}`;
  const sizes = [
    { name: "router", pid: cluster.router.pid },
    ...cluster.shards.map(({ id, nodePid }) => ({ name: `node ${id}`, pid: nodePid })),
  ];
  return sizes.map(({ name, pid }) => {
    const memory = residentMegabytes(pid);
    if (memory === undefined) throw new Error("this system does not say how much memory a process uses");
    return {
      name: `${name}, resident`,
      value: memory.now,
      unit: "MB",
      target: below(TARGET_MB, memory.now, "MB"),
      note: `peak ${Math.round(memory.peak)} MB; ${note}`,
    };
  });
}
