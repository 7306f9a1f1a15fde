#!/bin/sh
# Writes PgBouncer's configuration from the environment, because it reads none itself, and runs it.
set -eu
umask 077
cd /tmp
# deploy/passwords.sh writes new ones here: a new password is no new container, and this one keeps it when it starts again.
if [ ! -e /users/users.txt ]; then
  owner=$(cat /run/secrets/ONSALE_PASSWORD)
  printf '"onsale" "%s"\n"onsale_2" "%s"\n"monitor" "%s"\n' "$owner" "$owner" "$(cat /run/secrets/MONITOR_PASSWORD)" >/users/users.txt
fi
# A node's limits of statements (docs/pgbouncer.md). In transaction mode a client's startup parameters cannot follow it to
# each server connection, so all server connections get the same.
limits="set statement_timeout=$STATEMENT_TIMEOUT_MS; set lock_timeout=$LOCK_TIMEOUT_MS; set idle_in_transaction_session_timeout=$STATEMENT_TIMEOUT_MS"

# Addresses, not names: PgBouncer keeps a name's old address long after dns_max_ttl (test/containers/compose.test.ts, D6),
# and a new container may have a new address. Without any address it uses one where nothing answers.
address() { getent ahostsv4 "$1" | { read -r first _ || first=$2; echo "$first"; }; }
configure() {
  cat >pgbouncer.new <<INI
[databases]
shard = host=$primary port=5432 pool_size=$POOL_SIZE connect_query='$limits'
shard_replica = host=$replica port=5432 dbname=shard pool_size=$POOL_SIZE connect_query='$limits'

[pgbouncer]
listen_addr = 0.0.0.0
listen_port = 6432
unix_socket_dir =
auth_type = scram-sha-256
auth_file = /users/users.txt
pool_mode = transaction
max_prepared_statements = 200
ignore_startup_parameters = statement_timeout,lock_timeout,idle_in_transaction_session_timeout,extra_float_digits
stats_users = monitor

# Bounds. A client waits no longer for a server connection than a node waits for one of its pool.
max_client_conn = 200
query_wait_timeout = 2
server_connect_timeout = 2
# So it finds a server that came back within a second.
server_login_retry = 1

log_connections = 0
log_disconnections = 0
log_stats = 0
INI
  mv pgbouncer.new pgbouncer.ini
}
primary=$(address "$PRIMARY_HOST" 127.0.0.1)
replica=$(address "$REPLICA_HOST" 127.0.0.1)
configure

# Checks every second, and lets PgBouncer reload its configuration if an address has changed.
while sleep 1; do
  before="$primary $replica"
  primary=$(address "$PRIMARY_HOST" "$primary")
  replica=$(address "$REPLICA_HOST" "$replica")
  [ "$primary $replica" = "$before" ] && continue
  configure
  kill -HUP $$
done &
exec pgbouncer pgbouncer.ini
