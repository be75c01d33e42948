#!/bin/sh
# Creates the roles and the database of Tally on a new Postgres; the image of Postgres runs it once.
set -eu
psql --set=ON_ERROR_STOP=1 --set=password="$POSTGRES_OWNER_PASSWORD" \
  --set=grafana="$GRAFANA_POSTGRES_PASSWORD" --username "${POSTGRES_USER:-postgres}" <<'SQL'
create role tally_owner login password :'password';
create role tally_reader nologin;
create role tally_bi_reader nologin;
create role grafana login password :'grafana' in role tally_bi_reader;
grant tally_reader to tally_owner;
create database tally owner tally_owner;
SQL
