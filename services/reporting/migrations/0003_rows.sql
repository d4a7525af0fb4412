-- The second fence (docs/decisions/0013-two-fences.md): what is read for a caller is read as `reporting_reader`, which
-- owns nothing and sees rows only through the policies below. They ask three settings of the transaction: the company,
-- the locations ('*' or a list) and the poster ('*' or one) that the caller may see. What is not set shows nothing.

do $$
begin
    if not exists (select from pg_roles where rolname = 'reporting_reader') then
        begin
            create role reporting_reader nologin;
        exception
            when duplicate_object or unique_violation then
                null;  -- Another database of this cluster was migrated at the same moment.
            when insufficient_privilege then
                raise exception using
                    errcode = 'insufficient_privilege',
                    message = format('the role reporting_reader is missing and %s may not create it', current_user),
                    hint = format('As an administrator: create role reporting_reader nologin; grant reporting_reader to %I;',
                                  current_user);
        end;
    end if;
    if not pg_has_role(current_user, 'reporting_reader', 'member') then
        execute format('grant reporting_reader to %I', current_user);
    end if;
end
$$;

-- Every table but two is fenced, against its owner too. The service's own role folds events of all companies, so its
-- policy lets every row through. `schema_migration` and `directory_progress` hold no company's rows.
do $$
declare
    name text;
begin
    foreach name in array array [
        'directory_company', 'directory_location', 'directory_user', 'directory_client', 'inbox', 'company_progress',
        'balancing_line', 'balancing_posting_day', 'balancing_deposit_day', 'patient_name', 'payer']
    loop
        execute format('alter table %I enable row level security, force row level security', name);
        execute format('create policy service on %I to reporting_app using (true) with check (true)', name);
    end loop;

    foreach name in array array ['inbox', 'company_progress', 'patient_name', 'payer', 'directory_location'] loop
        execute format($policy$
            create policy reader on %I for select to reporting_reader
                using (company_id = (select nullif(current_setting('app.company', true), '')::uuid))
        $policy$, name);
    end loop;

    -- Each setting is read once a statement, not once a row: that is what the inner selects are for.
    foreach name in array array ['balancing_line', 'balancing_posting_day', 'balancing_deposit_day'] loop
        execute format($policy$
            create policy reader on %I for select to reporting_reader
                using (company_id = (select nullif(current_setting('app.company', true), '')::uuid)
                    and ((select current_setting('app.locations', true) = '*')
                        or location_id = any ((select string_to_array(nullif(current_setting('app.locations', true), '*'), ',')::uuid[])::uuid[]))
                    and ((select current_setting('app.poster', true) = '*')
                        or poster_id = (select nullif(nullif(current_setting('app.poster', true), '*'), '')::uuid)))
        $policy$, name);
    end loop;
end
$$;

-- The names of the company's members, and of those whose postings the caller can see and who have left since.
create policy reader on directory_user for select to reporting_reader
    using ((select nullif(current_setting('app.company', true), '')::uuid) = any (company_ids)
        or exists (
            select from balancing_line l
            where l.company_id = (select nullif(current_setting('app.company', true), '')::uuid)
                and l.poster_id = directory_user.user_id));

-- A receipt of a location may be applied to a charge of another one. The row is the receipt's and is shown; whose charge
-- it is, and for what, is not (R3, D14).
create view visible_line with (security_invoker = true) as
select company_id, version, receipt_count, receipt_version, posted_at, applied_cents, adjusted_cents,
    provider_level_cents, unapplied_cents, posting_date, deposit_date, payment_id, poster_id, location_id, payer_id,
    affiliation, source, method, batch_number, check_number, part,
    case when open then patient_id end as patient_id,
    case when open then charge_id end as charge_id,
    case when open then charge_location_id end as charge_location_id,
    case when open then procedure_code end as procedure_code
from balancing_line
cross join lateral (
    select (select current_setting('app.locations', true) = '*')
        or part not in ('applied', 'adjusted')
        or charge_location_id = any ((select string_to_array(nullif(current_setting('app.locations', true), '*'), ',')::uuid[])::uuid[])
        as open
) masked;

grant select on visible_line, balancing_line, balancing_posting_day, balancing_deposit_day, company_progress, patient_name,
    payer to reporting_reader;
-- Of events only their place: their text names patients of every location.
grant select (company_id, first_version, version, event_time) on inbox to reporting_reader;
grant select (company_id, location_id, name) on directory_location to reporting_reader;
grant select (user_id, display_name, company_ids) on directory_user to reporting_reader;
