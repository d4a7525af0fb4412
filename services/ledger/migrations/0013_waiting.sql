-- Adjustments that wait in the quarantine for their charge, and are posted with it.

-- What is waited for, and what is asked of the books when it comes: the charge that a source calls so, or, where the
-- source is empty, any charge of the patient with this account number.
alter table feed_exception add column waits_source text;
alter table feed_exception add column waits_name text;
alter table feed_exception add column command json;
create index feed_exception_waiting on feed_exception (company_id, waits_source, waits_name)
    where state = 'open' and waits_name is not null;

-- Beside `load_books`, in the same snapshot: `waits` for each company in which anything waits, and what waits for the
-- charges that a batch brings: {k: 'waiting', v: [source, name]}, {k: 'charged_patient', v: patient}.
create function load_waiting(companies uuid[], wanted json)
returns table (kind text, company_id uuid, body json)
language sql stable as $$
    select 'waits', c.id, null::json from unnest(companies) as c (id)
    where exists (
        select from feed_exception e
        where e.company_id = c.id and e.state = 'open' and e.waits_name is not null)
    union all
    select 'waiting', f.company_id, f.body from (
        select e.company_id, e.exception_id, json_build_object(
            'exception_id', e.exception_id, 'feed_id', e.feed_id, 'item_key', e.item_key, 'command', e.command) as body
        from (
            select w.c, w.v::json ->> 0 as source, w.v::json ->> 1 as name
            from json_to_recordset(wanted) as w (c uuid, k text, v text) where w.k = 'waiting'
            union
            select p.company_id, '', p.account_number
            from json_to_recordset(wanted) as w (c uuid, k text, v text)
            join patient p on p.company_id = w.c and p.patient_id = w.v::uuid where w.k = 'charged_patient'
        ) n
        join feed_exception e on e.company_id = n.c and e.waits_source = n.source and e.waits_name = n.name
            and e.state = 'open' and e.waits_name is not null
        order by e.exception_id
    ) f
$$;

-- The same as before, and what waits from now on. An exception that a person closed while what it had waited for came
-- (`waited`) is no reason to refuse that: SQLSTATE 40001, and the batch is decided again without it. What is still
-- refused for another reason than at first is noted, once for each reason.
create function append_feed_work(settlements json, reports json, parked json)
returns void
language plpgsql volatile as $$
begin
    perform from json_to_recordset(settlements) as s (company_id uuid, exception_id uuid, waited boolean)
    join feed_exception e on e.company_id = s.company_id and e.exception_id = s.exception_id
    where s.waited order by e.exception_id for update of e;
    if exists (
        select from json_to_recordset(settlements) as s (company_id uuid, exception_id uuid, waited boolean)
        join feed_exception e on e.company_id = s.company_id and e.exception_id = s.exception_id
        where s.waited and e.state <> 'open')
    then
        raise exception using errcode = 'serialization_failure', message = 'what waited was closed meanwhile';
    end if;
    perform append_feed_work(settlements, reports);
    update feed_exception e set waits_source = p.waits_source, waits_name = p.waits_name, command = p.command
    from json_to_recordset(parked) as p (
        company_id uuid, exception_id uuid, waits_source text, waits_name text, command json)
    where e.company_id = p.company_id and e.exception_id = p.exception_id and e.state = 'open';
    insert into exception_history (company_id, exception_id, actor_id, action, reason, detail)
    select e.company_id, e.exception_id, p.actor_id, 'retry_failed', p.reason, p.detail
    from json_to_recordset(parked) as p (
        company_id uuid, exception_id uuid, actor_id uuid, reason text, detail json)
    join feed_exception e on e.company_id = p.company_id and e.exception_id = p.exception_id and e.state = 'open'
    where p.actor_id is not null and p.reason <> e.reason and not exists (
        select from exception_history h
        where h.company_id = e.company_id and h.exception_id = e.exception_id and h.reason = p.reason);
end $$;
