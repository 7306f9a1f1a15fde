/**
 * The witness's load: buyers and readers of a few events, from outside, as any clients. What they do comes from a seed.
 * Whoever is not told what became of a request asks again with its key, as the documents say.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { seededRandom } from "../../../bench/random.ts";
import { isUnknown } from "./check.ts";
import { type Client, now, type Request } from "./client.ts";
import type { Answer, WatchedEvent, WitnessLog } from "./log.ts";

export interface LoadOptions {
  readonly client: Client;
  /** Of the client. The load ends when it is full. */
  readonly log: WitnessLog;
  readonly seed: number;
  /** Parts of the cluster, such as shards: each gets the same load. */
  readonly labels: readonly string[];
  readonly labelOf: (eventId: string) => string;
  /** About; half of them are reads of an event. */
  readonly requestsPerSecond: number;
  /** Events on sale at a time, for each label. */
  readonly stagesPerLabel?: number;
}

/** One event at a time, with its own buyers and readers: a slow one delays no other's. */
interface Stage {
  readonly label: string;
  event: WatchedEvent;
  refusals: number;
}

interface Owned {
  readonly user: string;
  readonly booking: string;
  readonly event: string;
}

type Random = () => number;

const STAGES_PER_LABEL = 2;
const BUYERS_PER_STAGE = 6;
const REGULARS = 20;
const STOCKS = [15, 60, 2_000];
const MAX_PER_USER = 2;
/** Another event follows one that has refused so often. */
const REFUSALS_MAX = 60;
const TRIES_MAX = 5;
const OWNED_MAX = 200;
/** Of the bookings and holds, those whose client prefers not to wait. */
const ASYNC_SHARE = 0.25;
/** Receipts that are followed at a time. */
const FOLLOWED_MAX = 200;
/** Between two looks at a receipt, on average. */
const FOLLOW_MS = 300;
const FIRST_EVENT_MAX_MS = 30_000;
const NEXT_EVENT_MAX_MS = 1_000;

export class Load {
  readonly #options: LoadOptions;
  readonly #client: Client;
  readonly #run = `witness-${Math.floor(now()).toString(36)}`;
  readonly #stop = new AbortController();
  readonly #random: Random;
  /** Requests whose outcome nobody has told. */
  readonly #open: Request[] = [];
  /** At all receipts that were given. */
  readonly #looks: Request[] = [];
  #followed = 0;
  readonly #workers: Promise<void>[] = [];
  #users = 0;

  constructor(options: LoadOptions) {
    this.#options = options;
    this.#client = options.client;
    this.#random = seededRandom(options.seed);
  }

  /** Resolves when every stage has its event and its clients. Throws when the cluster does not create the events. */
  async start(): Promise<void> {
    const { labels, requestsPerSecond, stagesPerLabel = STAGES_PER_LABEL } = this.#options;
    const { urls } = this.#client;
    const stages = await Promise.all(
      labels
        .flatMap((label) => Array.from({ length: stagesPerLabel }, () => label))
        .map(async (label): Promise<Stage> => {
          const event = await this.#newEvent(label, this.#fork(), FIRST_EVENT_MAX_MS);
          return { label, event, refusals: 0 };
        }),
    );
    const readers = stages.length * urls.length;
    const buyers = stages.length * BUYERS_PER_STAGE;
    for (const stage of stages) {
      for (const router of urls.keys())
        this.#repeat((readers / requestsPerSecond) * 2_000, async () =>
          this.#client.ask({ operation: "read", event: stage.event.id }, router),
        );
      for (let buyer = 0; buyer < BUYERS_PER_STAGE; buyer += 1) {
        const owned: Owned[] = [];
        const random = this.#fork();
        this.#repeat((buyers / requestsPerSecond) * 2_000, async () => this.#buy(stage, owned, random));
      }
    }
  }

  /** Ends the load. Resolves when every request that was sent has its answer, or none. */
  async stop(): Promise<void> {
    this.#stop.abort();
    // A buyer's last request may begin to be followed meanwhile.
    for (const worker of this.#workers) await worker;
  }

  /** After `stop`: asks again for what is unknown still, and looks at every receipt. Resolves to how many stay unknown. */
  async settle(withinMs: number): Promise<number> {
    const until = now() + withinMs;
    const ask = async (request: Request, isKnown: (answer: Answer) => boolean): Promise<boolean> => {
      for (let router = 0; now() < until; router = (router + 1) % this.#client.urls.length) {
        if (isKnown(await this.#client.ask(request, router))) return true;
        await sleep(250);
      }
      return false;
    };
    // Nobody waits for a receipt any more: who asks again is told the decision.
    const open = this.#open.splice(0).map(async (request) => {
      const again = { ...request };
      delete again.async;
      return ask(again, isDecided);
    });
    const looks = this.#looks.splice(0).map(async (look) => ask(look, isSettled));
    const known = await Promise.all([...open, ...looks]);
    return known.filter((isKnown) => !isKnown).length;
  }

  #fork(): Random {
    return forkOf(this.#random);
  }

  /** Does it again and again, after pauses of this length on average. */
  #repeat(pauseMs: number, task: () => Promise<unknown>): void {
    const random = this.#fork();
    const { signal } = this.#stop;
    const work = async () => {
      while (!signal.aborted && !this.#options.log.isFull) {
        await sleep(2 * pauseMs * random(), undefined, { signal }).catch(() => undefined);
        if (!signal.aborted) await task();
      }
    };
    this.#workers.push(work());
  }

  async #buy(stage: Stage, owned: Owned[], random: Random): Promise<void> {
    const dice = random();
    const known = owned[Math.floor(random() * owned.length)];
    if (known !== undefined && dice < 0.3) {
      const operation = dice < 0.1 ? "cancel" : dice < 0.2 ? "confirm" : "show";
      await this.#insist({ operation, ...known }, random);
      return;
    }
    const event = stage.event.id;
    // Some come again, and reach their limit.
    const name = random() < 0.3 ? `regular-${Math.floor(random() * REGULARS)}` : (this.#users += 1);
    const user = `${this.#run}-${name}`;
    const request: Request = {
      operation: dice < 0.85 ? "book" : "hold",
      event,
      user,
      quantity: random() < 0.7 ? 1 : 2,
      ...(random() < ASYNC_SHARE && this.#followed < FOLLOWED_MAX ? { async: true } : {}),
      ...(random() < 0.9 ? { key: `key-${Math.floor(random() * 2 ** 48).toString(36)}` } : {}),
    };
    const { answer, router } = await this.#insist(request, random);
    if (answer.request !== undefined) {
      const look = { operation: "follow", event, user, receipt: answer.request.receipt } as const;
      this.#looks.push(look);
      this.#workers.push(this.#follow(look, stage, owned, forkOf(random)));
    } else if (answer.booking !== undefined) {
      this.#own(owned, { user, booking: answer.booking.id, event });
      // The router that took it shows it at once.
      if (random() < 0.5) await this.#client.ask({ operation: "read", event }, router);
      // Some ask again all the same, and get the same booking.
      if (random() < 0.05 && request.key !== undefined) await this.#insist(request, random);
    } else if (answer.status === 409) {
      await this.#countRefusal(stage, event, random);
    }
  }

  async #countRefusal(stage: Stage, event: string, random: Random): Promise<void> {
    if (stage.event.id !== event) return;
    stage.refusals += 1;
    if (stage.refusals !== REFUSALS_MAX) return;
    const next = await this.#newEvent(stage.label, random, NEXT_EVENT_MAX_MS).catch(() => undefined);
    stage.event = next ?? stage.event;
    stage.refusals = 0;
  }

  /** Looks at a receipt, at one router and another, until it is settled or the load ends; `settle` looks at it once more. */
  async #follow(look: Request, stage: Stage, owned: Owned[], random: Random): Promise<void> {
    const { urls } = this.#client;
    const { signal } = this.#stop;
    this.#followed += 1;
    while (!signal.aborted && !this.#options.log.isFull) {
      await sleep(2 * FOLLOW_MS * random(), undefined, { signal }).catch(() => undefined);
      const answer = await this.#client.ask(look, Math.floor(random() * urls.length));
      if (!isSettled(answer)) continue;
      const { booking } = answer.request ?? {};
      if (booking === undefined) await this.#countRefusal(stage, look.event, random);
      else this.#own(owned, { user: booking.userId, booking: booking.id, event: look.event });
      break;
    }
    this.#followed -= 1;
  }

  #own(owned: Owned[], booking: Owned): void {
    owned.push(booking);
    if (owned.length > OWNED_MAX) owned.shift();
  }

  /** Sends it until it is decided, a few times at most, each time to the next router. */
  async #insist(request: Request, random: Random): Promise<{ answer: Answer; router: number }> {
    const { urls } = this.#client;
    const mayRepeat = request.key !== undefined || request.booking !== undefined;
    let router = Math.floor(random() * urls.length);
    let mayBeDone = false;
    for (let tries = 1; ; tries += 1) {
      const answer = await this.#client.ask(request, router);
      if (isDecided(answer)) return { answer, router };
      mayBeDone ||= isUnknown(answer);
      // Half of those who are told that nothing was done go away; nothing may be there then.
      const goesAway = !mayBeDone && random() < 0.5;
      if (!mayRepeat || goesAway || tries === TRIES_MAX || this.#stop.signal.aborted) {
        if (mayBeDone && request.key !== undefined) this.#open.push(request);
        return { answer, router };
      }
      await sleep(100 + 300 * random());
      router = (router + 1) % urls.length;
    }
  }

  /** An event of this label; others that come up meanwhile stay unused. Throws when there is none in time. */
  async #newEvent(label: string, random: Random, withinMs: number): Promise<WatchedEvent> {
    const totalTickets = STOCKS[Math.floor(random() * STOCKS.length)] ?? 1;
    const body = {
      name: "Witness",
      startsAt: "2099-01-01T20:00:00Z",
      totalTickets,
      maxPerUser: MAX_PER_USER,
    };
    const until = now() + withinMs;
    for (;;) {
      const router = Math.floor(random() * this.#client.urls.length);
      const { event, status, code } = await this.#client.createEvent(router, `${this.#run}-organizer`, body);
      if (event !== undefined && this.#options.labelOf(event.id) === label) {
        const watched = {
          type: "event",
          id: event.id,
          label,
          totalTickets,
          maxPerUser: MAX_PER_USER,
        } as const;
        this.#options.log.write(watched);
        return watched;
      }
      if (now() > until || status === 401 || status === 403)
        throw new Error(`creating an event of ${label} is answered ${status} ${code ?? ""}`);
      if (event === undefined) await sleep(100);
    }
  }
}

/** The shard has said yes or no. "Busy" and "away" say nothing about an earlier try. */
function isDecided({ status }: Answer): boolean {
  return status !== null && status < 500 && status !== 429;
}

/** Its receipt says what it came to, or is none: then it will never say. */
function isSettled({ status, request }: Answer): boolean {
  return status === 404 || (request !== undefined && request.status !== "queued");
}

function forkOf(random: Random): Random {
  return seededRandom(Math.floor(random() * 2 ** 32));
}
