#!/bin/sh
# Runs once, when the database server's volume is empty: a database, its owner and a role of few rights for each
# service. Migrations run as the owner; the processes take on the `_app` role, which can do only what migrations grant,
# and read for their callers as the `_reader` role, which sees what the caller may see.
set -eu

for service in identity ledger reporting; do
  case $service in
    identity) password=$IDENTITY_DB_PASSWORD ;;
    ledger) password=$LEDGER_DB_PASSWORD ;;
    reporting) password=$REPORTING_DB_PASSWORD ;;
  esac
  psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 --username postgres --dbname postgres \
    --set service="$service" --set app="${service}_app" --set reader="${service}_reader" --set password="$password" <<'SQL'
create role :"app" nologin;
create role :"reader" nologin;
create role :"service" login password :'password';
grant :"app", :"reader" to :"service";
create database :"service" owner :"service";
-- Everybody may connect to a new database unless told otherwise.
revoke connect, temporary on database :"service" from public;
SQL
done
