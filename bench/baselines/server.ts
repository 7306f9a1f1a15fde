/** The process of a baseline that answers HTTP: its strategy behind the shared server. */
import { systemClock } from "../../shared/process/clock.ts";
import { createHttpServer, drain, listen } from "../../shared/process/http-server.ts";
import { TokenVerifier } from "../../router/callers/tokens.ts";
import { createApp } from "./app.ts";
import { serveParent } from "./service.ts";
import { STRATEGIES } from "./strategies/all.ts";

const CONNECTIONS_MAX = 20_000;

await serveParent(async (settings) => {
  const strategy = await STRATEGIES[settings.name].start(settings);
  const verifier = new TokenVerifier({ keys: { secret: settings.secret } }, systemClock);
  const server = createHttpServer({
    fetch: createApp(strategy, verifier),
    refuse: () => ({ status: 400, headers: {}, body: "" }),
    connectionsMax: CONNECTIONS_MAX,
  });
  const url = await listen(server, { host: "127.0.0.1", port: 0 });
  return {
    url,
    get stats() {
      return strategy.stats;
    },
    created: async (eventIds) => strategy.created?.(eventIds),
    settle: async () => strategy.settle?.(),
    async [Symbol.asyncDispose]() {
      await drain(server, 0);
      await strategy[Symbol.asyncDispose]();
    },
  };
});
