# One image for all roles: router, shard node, migrations and tools. The command names the file to run:
#   docker run onsale router/main.ts
FROM node:26-trixie-slim AS dependencies
WORKDIR /app
COPY package.json package-lock.json .npmrc ./
# Optional packages are for npm start: a Node of its own, and PostgreSQL.
RUN npm ci --omit=dev --omit=optional --ignore-scripts --no-audit --no-fund

FROM node:26-trixie-slim
WORKDIR /app
# By default malloc keeps an arena per thread, and V8's heap grows in proportion to its limit.
ENV NODE_ENV=production MALLOC_ARENA_MAX=2
COPY --from=dependencies /app/node_modules node_modules
COPY . .
USER node
STOPSIGNAL SIGTERM
# Node itself asks, so the image needs no curl. Every role that serves has ADMIN_PORT.
HEALTHCHECK --interval=4s --timeout=10s --start-period=60s --retries=5 \
  CMD ["node", "-e", "require('http').get({ port: process.env.ADMIN_PORT, path: '/readyz' }, (answer) => process.exit(answer.statusCode === 200 ? 0 : 1)).on('error', () => process.exit(1))"]
ENTRYPOINT ["node", "--max-old-space-size=1024", "--max-semi-space-size=32"]
CMD ["router/main.ts"]
