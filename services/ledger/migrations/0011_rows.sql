-- The second fence (docs/decisions/0013-two-fences.md): what is read for a caller is read as `ledger_reader`, which owns
-- nothing and sees the rows of one company only, the one that the transaction's setting `app.company` names. What is not
-- set shows nothing. The ledger has no rights by location: they are reporting's.

do $$
begin
    if not exists (select from pg_roles where rolname = 'ledger_reader') then
        begin
            create role ledger_reader nologin;
        exception
            when duplicate_object or unique_violation then
                null;  -- Another database of this cluster was migrated at the same moment.
            when insufficient_privilege then
                raise exception using
                    errcode = 'insufficient_privilege',
                    message = format('the role ledger_reader is missing and %s may not create it', current_user),
                    hint = format('As an administrator: create role ledger_reader nologin; grant ledger_reader to %I;',
                                  current_user);
        end;
    end if;
    if not pg_has_role(current_user, 'ledger_reader', 'member') then
        execute format('grant ledger_reader to %I', current_user);
    end if;
end
$$;

-- Every table with a company is fenced, against its owner too. The service's own role writes for all companies and
-- publishes for all, so its policy lets every row through. `directory_progress` and `schema_migration` hold no company's
-- rows. Keys, the outbox and attempts at messages are never read for a caller.
do $$
declare
    name text;
begin
    for name in
        select c.relname from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attname in ('company_id', 'company_ids')
        where c.relnamespace = 'public'::regnamespace and c.relkind = 'r' and not a.attisdropped and not c.relrowsecurity
    loop
        execute format('alter table %I enable row level security, force row level security', name);
        execute format('create policy service on %I to ledger_app using (true) with check (true)', name);
        continue when name in ('directory_user', 'directory_client', 'idempotency', 'outbox', 'feed_attempt');
        execute format($policy$
            create policy reader on %I for select to ledger_reader
                using (company_id = (select nullif(current_setting('app.company', true), '')::uuid))
        $policy$, name);
        execute format('grant select on %I to ledger_reader', name);
    end loop;
end
$$;

-- Users are the members of the company, and who has worked its quarantine and left since.
create policy reader on directory_user for select to ledger_reader
    using ((select nullif(current_setting('app.company', true), '')::uuid) = any (company_ids)
        or exists (
            select from exception_history h
            where h.company_id = (select nullif(current_setting('app.company', true), '')::uuid)
                and h.actor_id = directory_user.user_id));
create policy reader on directory_client for select to ledger_reader
    using ((select nullif(current_setting('app.company', true), '')::uuid) = any (company_ids));
grant select (user_id, display_name, company_ids) on directory_user to ledger_reader;
grant select (client_id, sources, active, company_ids) on directory_client to ledger_reader;

-- A view reads with the rights of who asks, not of who made it.
alter view feed_mapping_now set (security_invoker = true);
grant select on feed_mapping_now to ledger_reader;
