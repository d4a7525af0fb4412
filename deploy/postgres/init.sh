#!/bin/sh
# Runs when the database server's volume is empty: for each service a database, the owner that its migrations run as,
# and the login role of its processes, with the two roles that these take on: `_app`, which can do only what migrations
# grant, and `_reader`, which sees what a caller may see.
#
# What is there is left as it is, but for passwords, which are set anew: so it may be run again, after a change of .env
# or when a newer version brings a role:  docker compose exec postgres sh /docker-entrypoint-initdb.d/init.sh
set -eu

login=${LOGIN_SQL:-/etc/billing/login.sql}
run() { psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 --username postgres --dbname postgres "$@"; }

run <<'SQL'
revoke connect, temporary on database postgres, template1 from public;
SQL
for service in identity ledger reporting; do
  case $service in
    identity) owner_password=$IDENTITY_OWNER_PASSWORD password=$IDENTITY_DB_PASSWORD ;;
    ledger) owner_password=$LEDGER_OWNER_PASSWORD password=$LEDGER_DB_PASSWORD ;;
    reporting) owner_password=$REPORTING_OWNER_PASSWORD password=$REPORTING_DB_PASSWORD ;;
  esac
  run --set service="$service" --set password="$owner_password" <<'SQL'
select format('create role %I', :'service') where not exists (select from pg_roles where rolname = :'service') \gexec
alter role :"service" login nosuperuser nobypassrls nocreaterole nocreatedb noreplication password :'password';
select format('create database %I owner %I', :'service', :'service')
 where not exists (select from pg_database where datname = :'service') \gexec
SQL
  run --set service="$service" --set database="$service" --set password="$password" --file "$login"
  # Migrations ask that the owner is of the roles that they grant to; and a rebuild works as the service.
  run --set service="$service" --set app="${service}_app" --set reader="${service}_reader" <<'SQL'
grant :"app", :"reader" to :"service";
SQL
done
