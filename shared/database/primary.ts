/**
 * Which server of a database accepts writes. After a failover the replaced primary may come back and still accept writes.
 * So all servers are asked, and the newest timeline wins: each promotion begins a new timeline (PostgreSQL manual §26.3.5).
 * A server of an older timeline is refused from then on.
 */
import { messageOf } from "./faults.ts";
import { serverName } from "./url.ts";

export interface ServerState {
  /** False on a replica, and where transactions are read-only by default. */
  readonly writable: boolean;
  /** The timeline that a writable server writes; 0 on another. */
  readonly timeline: number;
}

export class PrimarySearch {
  readonly #urls: readonly string[];
  readonly #ask: (url: string) => Promise<ServerState>;
  #newestTimeline = 0;
  #searching: Promise<string> | undefined;

  /** `ask` answers or throws in bounded time. */
  constructor(urls: readonly string[], ask: (url: string) => Promise<ServerState>) {
    this.#urls = urls;
    this.#ask = ask;
  }

  /** The newest timeline of the servers found so far; 0 before the first. */
  get newestTimeline(): number {
    return this.#newestTimeline;
  }

  /** Another node has found a server of this timeline. Returns true when the timeline is new here. */
  learn(timeline: number): boolean {
    if (timeline <= this.#newestTimeline) return false;
    this.#newestTimeline = timeline;
    return true;
  }

  /** The URL of the server to write to. All callers share one search. Throws an Error that says why each server was refused. */
  async find(): Promise<string> {
    const [only] = this.#urls;
    if (this.#urls.length === 1 && only !== undefined) return only;
    this.#searching ??= this.#search().finally(() => (this.#searching = undefined));
    return this.#searching;
  }

  /** The newest timeline that a server other than `known` writes now, or 0. Servers without an answer are ignored. */
  async newestBeside(known: string | undefined): Promise<number> {
    const others = this.#urls.filter((url) => url !== known);
    const answers = await Promise.allSettled(others.map(this.#ask));
    const timelines = answers.map((answer) => (answer.status === "fulfilled" ? answer.value.timeline : 0));
    return Math.max(0, ...timelines);
  }

  /** Why this server must not be written to, or undefined when it may be. */
  objectionTo({ writable, timeline }: ServerState): string | undefined {
    if (!writable) return "accepts no writes";
    if (timeline < this.#newestTimeline)
      return `was replaced: it writes timeline ${timeline}, and there is ${this.#newestTimeline}`;
    this.#newestTimeline = timeline;
    return undefined;
  }

  async #search(): Promise<string> {
    const answers = await Promise.all(
      this.#urls.map(async (url) => {
        try {
          return { url, state: await this.#ask(url) };
        } catch (error) {
          return { url, problem: messageOf(error) };
        }
      }),
    );
    const timelineOf = ({ state }: (typeof answers)[number]) =>
      state?.writable === true ? state.timeline : -1;
    const problems: string[] = [];
    for (const { url, state, problem } of answers.toSorted((a, b) => timelineOf(b) - timelineOf(a))) {
      const objection = state === undefined ? problem : this.objectionTo(state);
      if (objection === undefined) return url;
      problems.push(`${serverName(url)} ${objection}`);
    }
    throw new Error(`no server accepts writes: ${problems.join("; ")}`);
  }
}
