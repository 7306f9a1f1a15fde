/** A role with a bug, of the kind that its argument names. Whoever gets to say something after a bug says it on stdout. */
import { invariant } from "../../shared/domain/invariant.ts";
import { runRole } from "../../shared/process/lifecycle.ts";
import { serve } from "./listen.ts";

const BUGS = {
  async caught() {
    try {
      sellTwice();
    } catch {
      process.stdout.write("went on\n");
    }
  },
  async request() {
    const { url } = await serve((_request, response) => {
      try {
        sellTwice();
      } catch {
        response.writeHead(500).end();
      }
    });
    void fetch(url).then(() => process.stdout.write("answered\n"));
  },
  async promise() {
    void Promise.resolve().then(sellTwice);
    setTimeout(() => process.stdout.write("went on\n"), 0);
  },
  async unforeseen() {
    setTimeout(() => {
      throw new TypeError("nobody foresaw this");
    }, 0);
  },
};

function sellTwice(): never {
  const available = -1;
  invariant(available >= 0, "no ticket is sold twice", { available });
  throw new Error("unreachable");
}

await runRole("buggy", async () => {
  await BUGS[process.argv[2] as keyof typeof BUGS]();
  // A handle, as a role has: it does not end by itself.
  const alive = setInterval(() => undefined, 1_000);
  return { close: async () => clearInterval(alive) };
});
