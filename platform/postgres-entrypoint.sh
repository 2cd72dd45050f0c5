#!/bin/sh
# PostgreSQL with the environment of the official image: POSTGRES_USER, POSTGRES_PASSWORD, POSTGRES_DB, PGDATA, PGPORT.
# Arguments go to the server. A data folder is made beside its place and moved there whole, so that a pod killed meanwhile leaves no half.
set -eu
umask 077
: "${PGDATA:=/var/lib/postgresql/18/docker}"
user=${POSTGRES_USER:-postgres}
database=${POSTGRES_DB:-$user}
if [ ! -s "$PGDATA/PG_VERSION" ]; then
  : "${POSTGRES_PASSWORD:?is not set: the superuser needs a password before the first start}"
  new=$PGDATA.new
  rm -rf "$new"
  mkdir -p "$(dirname "$PGDATA")"
  printf '%s\n' "$POSTGRES_PASSWORD" >"${TMPDIR:-/tmp}/password"
  initdb --pgdata "$new" --username "$user" --pwfile "${TMPDIR:-/tmp}/password" --auth-host scram-sha-256 --auth-local scram-sha-256 \
    --encoding UTF8 --locale C.UTF-8 --no-instructions
  rm "${TMPDIR:-/tmp}/password"
  if [ "$database" != postgres ]; then
    printf 'CREATE DATABASE "%s";\n' "$(printf %s "$database" | sed 's/"/""/g')" | postgres --single -D "$new" postgres >/dev/null
  fi
  echo 'host all all all scram-sha-256' >>"$new/pg_hba.conf"
  sync -f "$new"
  mv "$new" "$PGDATA"
fi
unset POSTGRES_PASSWORD
exec postgres -D "$PGDATA" -c listen_addresses='*' -c unix_socket_directories=/var/run/postgresql "$@"
