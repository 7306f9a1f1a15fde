#!/usr/bin/env bash
# passwords.sh [OPTION of docker compose …]: exchanges the passwords of PostgreSQL, Redis and RabbitMQ while the cluster sells. It writes new
# ones into .env (or ENV_FILE). When it was interrupted, run it again: .env.new has what it was about to exchange.
#
# PostgreSQL has one password for each role. So the owner of the databases has two names, onsale and onsale_2. One logs in;
# the other gets the new password, and everybody changes over before the first is closed.
set -euo pipefail
env_file=$(realpath "${ENV_FILE:-"$(dirname "$0")/../.env"}")
cd "$(dirname "$0")/.."
options=("$@" --profile backup --profile observability --env-file "$env_file.new")
names=(POSTGRES_PASSWORD ONSALE_PASSWORD REPLICATION_PASSWORD MONITOR_PASSWORD READ_SIDE_PASSWORD REDIS_PASSWORD RABBITMQ_PASSWORD)
# Compose would believe these before the file.
unset ONSALE_USER "${names[@]}"

value() { sed -n "s/^$2=//p" "$1" | tail -1; }
compose() { docker compose "${options[@]}" "$@"; }
# Statements come through standard input: others could read a password on a command line.
sql() { compose exec -T "$1" psql --username=postgres --quiet --no-align --tuples-only --set=ON_ERROR_STOP=1; }
runs() { [ -n "$(compose ps --quiet "$1")" ]; }
# Who may come in at PgBouncers, a line each.
users() {
  local pooler
  for pooler in pgbouncer-a pgbouncer-b; do
    printf '%s\n' "$@" | compose exec -T "$pooler" sh -c 'cat >/users/new && mv /users/new /users/users.txt && kill -HUP 1'
  done
}
# Made anew, not by "up --no-deps": the next "up" would exchange what that started.
renew() { compose rm --force --stop "$@" && compose up --detach --no-recreate --wait "$@"; }
step() { echo "passwords: $*"; }

old_user=$(value "$env_file" ONSALE_USER)
case ${old_user:=onsale} in onsale) new_user=onsale_2 ;; *) new_user=onsale ;; esac
if [ ! -e "$env_file.new" ]; then
  umask 077
  secrets=$(IFS='|' && echo "${names[*]}")
  {
    grep -vE "^(ONSALE_USER|$secrets)=" "$env_file"
    echo "ONSALE_USER=$new_user"
    for name in "${names[@]}"; do echo "$name=$(od -An -v -N32 -tx1 /dev/urandom | tr -d ' \n')"; done
  } >"$env_file.draft"
  mv "$env_file.draft" "$env_file.new"
fi
for name in "${names[@]}"; do declare "$name=$(value "$env_file.new" "$name")"; done

# After a failover a primary is where its replica was.
primaries=() replicas=()
for shard in catalog shard-a shard-b; do
  found=()
  for server in "$shard" "$shard-replica"; do
    [ "$server" != catalog-replica ] && runs "$server" || continue
    if [ "$(sql "$server" <<<'select pg_is_in_recovery()')" = f ]; then found+=("$server"); else replicas+=("$server"); fi
  done
  [ "${#found[@]}" = 1 ] || { echo "passwords: $shard needs one primary, and has ${#found[@]}" >&2; exit 1; }
  primaries+=("$found")
done

step "$new_user may log in, everywhere"
for server in "${primaries[@]}"; do
  sql "$server" <<SQL
select 'create role onsale_2 in role onsale' where not exists (select from pg_roles where rolname = 'onsale_2') \gexec
alter role onsale_2 set role = 'onsale';
alter role $new_user login password '$ONSALE_PASSWORD';
SQL
done
users "\"$new_user\" \"$ONSALE_PASSWORD\"" "\"$old_user\" \"$(value "$env_file" ONSALE_PASSWORD)\"" \
  "\"monitor\" \"$(value "$env_file" MONITOR_PASSWORD)\""
# Redis takes both passwords until it is started with the new one.
compose exec -T redis sh -c 'REDISCLI_AUTH="$REDIS_PASSWORD" redis-cli -e' <<<"acl setuser default >$REDIS_PASSWORD" >/dev/null
# RabbitMQ asks for a password when somebody connects. Until they change over, nobody connects anew: bookings are decided directly.
compose exec -T rabbitmq sh -c 'rabbitmqctl --quiet change_password onsale "$(cat)"' <<<"$RABBITMQ_PASSWORD"
# The read side has its connections, and is exchanged after the nodes. Whatever needs a new one meanwhile is refused.
if runs read-side-db; then
  sql read-side-db <<SQL
alter role read_side password '$READ_SIDE_PASSWORD';
alter role postgres password '$POSTGRES_PASSWORD';
alter role monitor password '$MONITOR_PASSWORD';
SQL
fi

step "everybody changes over"
# With the first node they run the migrations, which tell the catalog the shards' new URLs.
compose rm --force migrate
deploy/roll.sh "${options[@]}"
renew redis rabbitmq auditor

step "replicas, archives and exporters follow"
for server in "${primaries[@]}"; do
  sql "$server" <<SQL
alter role postgres password '$POSTGRES_PASSWORD';
alter role replicator password '$REPLICATION_PASSWORD';
alter role monitor password '$MONITOR_PASSWORD';
SQL
done
for server in "${replicas[@]}"; do
  sql "$server" >/dev/null <<SQL
select format('alter system set primary_conninfo = %L',
  regexp_replace(current_setting('primary_conninfo'), 'password=\S+', 'password=$REPLICATION_PASSWORD')) \gexec
select pg_reload_conf();
SQL
done
users "\"onsale\" \"$ONSALE_PASSWORD\"" "\"onsale_2\" \"$ONSALE_PASSWORD\"" "\"monitor\" \"$MONITOR_PASSWORD\""
for service in exporter-postgres exporter-redis exporter-pgbouncer-a exporter-pgbouncer-b backup-a backup-b backup-catalog grafana; do
  if runs "$service"; then renew "$service"; fi
done

step "$old_user may log in no more"
for server in "${primaries[@]}"; do sql "$server" <<<"alter role $old_user nologin"; done
mv "$env_file.new" "$env_file"
step "done; ${env_file##*/} has the new ones"
