-- The role that a service's processes sign in as, for psql with the variables `service`, `database` and `password`. It
-- owns nothing, inherits nothing and may do two things: connect, and take on the roles in which the service works.
-- So a process that is taken over has what these roles have been granted, and no way to anything more.
-- May be run again, at any time: with another password, that is the new one. docs/decisions/0017-login-roles.md
\set app :service '_app'
\set reader :service '_reader'
\set login :service '_login'

select format('create role %I nologin', name) from unnest(array[:'app', :'reader']) as name
 where not exists (select from pg_roles where rolname = name) \gexec
select format('create role %I', :'login') where not exists (select from pg_roles where rolname = :'login') \gexec

-- NOINHERIT comes before the grants, which keep it from here.
alter role :"login" login noinherit nosuperuser nobypassrls nocreaterole nocreatedb noreplication password :'password';
grant :"app", :"reader" to :"login";
-- Everybody may connect to a new database unless told otherwise.
revoke connect, temporary on database :"database" from public;
grant connect on database :"database" to :"login";
