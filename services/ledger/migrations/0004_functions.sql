-- The two ends of the one write path: what a batch wants to see, and what it decided. `append_books` refuses when a
-- company's books were written after they were loaded (SQLSTATE 40001); the batch is then decided again, with the
-- companies' rows locked before it loads.

-- The EMR documents among what is wanted: {c: company, k: 'document', v: [source, kind, external id]}. Each is looked up
-- by its whole key (`offset 0`): without statistics a join reads all documents of the company for each (measured on
-- 9,000 of them: 15.7 s instead of 0.2 s).
create function wanted_documents(wanted json) returns setof feed_document language sql stable as $$
    select d.* from (
        select w.c, w.v::json as name from json_to_recordset(wanted) as w (c uuid, k text, v text)
        where w.k = 'document' offset 0
    ) w
    cross join lateral (
        select * from feed_document d where d.company_id = w.c
            and d.source = w.name ->> 0 and d.kind = w.name ->> 1 and d.external_id = w.name ->> 2
        offset 0
    ) d
$$;

-- Everything that a batch of commands needs to see, as (kind, company, row). `wanted` is a JSON list of
-- {c: company, k: kind, v: value}; only the kinds in it are looked for. STABLE: all of it is read in one snapshot, the
-- caller's, so the state is that of one moment; the clock is read after the snapshot was taken.
create function load_books(companies uuid[], wanted json)
returns table (kind text, company_id uuid, body json)
language plpgsql stable as $$
declare
    kinds text[];
    charge_ids_c uuid[] := '{}';
    charge_ids uuid[] := '{}';
    payment_ids_c uuid[] := '{}';
    payment_ids uuid[] := '{}';
    found_c uuid[];
    found_v uuid[];
    texts_c uuid[];
    texts text[];
begin
    return query select 'book', b.company_id, json_build_object(
            'version', b.version, 'writes', b.writes, 'now', t.time_now, 'today', t.today,
            'day_ends', (t.today + 1)::timestamp at time zone d.time_zone, 'npis', d.npis)
        from company_book b join directory_company d on d.company_id = b.company_id
        cross join lateral (
            select c.time_now, (c.time_now at time zone d.time_zone)::date as today
            from (select clock_timestamp() as time_now) c
        ) t
        where b.company_id = any (companies);
    select array_agg(distinct w.k) into kinds from json_to_recordset(wanted) as w (c uuid, k text, v text);

    if 'key' = any (kinds) then
        return query select 'key', i.company_id, row_to_json(i)
        from json_to_recordset(wanted) as w (c uuid, k text, v text)
        join idempotency i on i.company_id = w.c and i.key = w.v where w.k = 'key';
    end if;
    if kinds && array ['location', 'clinic'] then
        return query select 'location', l.company_id, row_to_json(l)
        from json_to_recordset(wanted) as w (c uuid, k text, v text)
        join directory_location l on l.company_id = w.c and l.location_id = w.v::uuid where w.k = 'location'
        union all
        select 'location', l.company_id, row_to_json(l)
        from json_to_recordset(wanted) as w (c uuid, k text, v text)
        join directory_location l on l.company_id = w.c and l.emr_location_id = w.v and l.active where w.k = 'clinic';
    end if;
    if kinds && array ['payer', 'payer_code', 'payer_name', 'era_payer'] then
        return query select 'payer', p.company_id, row_to_json(p)
        from json_to_recordset(wanted) as w (c uuid, k text, v text)
        join payer p on p.company_id = w.c and p.payer_id = w.v::uuid where w.k = 'payer'
        union all
        select 'payer', p.company_id, row_to_json(p)
        from json_to_recordset(wanted) as w (c uuid, k text, v text)
        join payer p on p.company_id = w.c and p.code = w.v where w.k = 'payer_code'
        union all
        select 'payer', p.company_id, row_to_json(p)
        from json_to_recordset(wanted) as w (c uuid, k text, v text)
        join payer p on p.company_id = w.c and upper(p.name) = upper(w.v) where w.k = 'payer_name'
        union all
        select 'payer', p.company_id, row_to_json(p)
        from json_to_recordset(wanted) as w (c uuid, k text, v text)
        join payer p on p.company_id = w.c and p.era_payer_ids @> array [w.v] where w.k = 'era_payer';
    end if;
    if kinds && array ['physician', 'npi'] then
        return query select 'physician', p.company_id, row_to_json(p)
        from json_to_recordset(wanted) as w (c uuid, k text, v text)
        join referring_physician p on p.company_id = w.c
            and (w.k = 'physician' and p.referring_physician_id::text = w.v or w.k = 'npi' and p.npi = w.v)
        where w.k in ('physician', 'npi');
    end if;
    if 'document' = any (kinds) then
        return query select 'document', d.company_id, row_to_json(d)
        from wanted_documents(wanted) d;
    end if;
    if 'line' = any (kinds) then
        return query select 'line', r.company_id, row_to_json(r)
        from json_to_recordset(wanted) as w (c uuid, k text, v text)
        join remittance_line r on r.company_id = w.c and r.line_key = w.v where w.k = 'line';
    end if;
    if kinds && array ['remittance', 'receipt'] then
        return query select 'remittance', r.company_id, row_to_json(r)
        from json_to_recordset(wanted) as w (c uuid, k text, v text)
        join remittance r on r.company_id = w.c and r.payment_key = w.v where w.k in ('remittance', 'receipt');
    end if;

    if kinds && array ['payment', 'remittance', 'document'] then
        select coalesce(array_agg(x.c), '{}'), coalesce(array_agg(x.v), '{}') into payment_ids_c, payment_ids from (
            select w.c, w.v::uuid as v from json_to_recordset(wanted) as w (c uuid, k text, v text) where w.k = 'payment'
            union
            select r.company_id, r.payment_id from json_to_recordset(wanted) as w (c uuid, k text, v text)
            join remittance r on r.company_id = w.c and r.payment_key = w.v where w.k = 'remittance'
            union
            select d.company_id, d.document_id from wanted_documents(wanted) d
            where d.kind = 'payment' and d.document_id is not null
        ) x;
        return query select 'payment', p.company_id, row_to_json(p) from read_payments(payment_ids_c, payment_ids) p;
    end if;

    if 'receipt' = any (kinds) then
        return query select 'receipt', p.company_id, row_to_json(p)
        from (
            select array_agg(r.company_id) as c, array_agg(r.payment_id) as v
            from json_to_recordset(wanted) as w (c uuid, k text, v text)
            join remittance r on r.company_id = w.c and r.payment_key = w.v where w.k = 'receipt'
        ) x, read_payments(x.c, x.v, false) p;
    end if;

    if kinds && array ['charge', 'payment', 'remittance', 'document', 'account_charges', 'external_charges'] then
        select coalesce(array_agg(x.c), '{}'), coalesce(array_agg(x.v), '{}') into charge_ids_c, charge_ids from (
            select w.c, w.v::uuid as v from json_to_recordset(wanted) as w (c uuid, k text, v text) where w.k = 'charge'
            union
            select w.c, r.charge_id from json_to_recordset(wanted) as w (c uuid, k text, v text)
            join patient p on p.company_id = w.c and p.account_number = w.v
            join charge_revision r on r.company_id = p.company_id and r.patient_id = p.patient_id
            where w.k = 'account_charges'
            union
            select w.c, h.charge_id from json_to_recordset(wanted) as w (c uuid, k text, v text)
            join charge h on h.company_id = w.c and h.external_id = w.v where w.k = 'external_charges'
            union
            select d.company_id, d.document_id from wanted_documents(wanted) d
            where d.kind = 'charge' and d.document_id is not null
            union
            select t.company_id, t.charge_id from unnest(payment_ids_c, payment_ids) as w (c, v)
            join transfer t on t.company_id = w.c and t.payment_id = w.v where t.charge_id is not null
        ) x;
        return query select 'charge', h.company_id, row_to_json(h) from read_charges(charge_ids_c, charge_ids) h;
    end if;

    if kinds && array ['patient', 'account'] or cardinality(charge_ids) > 0 then
        return query select 'patient', p.company_id, row_to_json(p) from patient p join (
            select w.c, w.v::uuid as v from json_to_recordset(wanted) as w (c uuid, k text, v text) where w.k = 'patient'
            union
            select r.company_id, r.patient_id from unnest(charge_ids_c, charge_ids) as w (c, v)
            join charge_revision r on r.company_id = w.c and r.charge_id = w.v
            union
            select w.c, q.patient_id from json_to_recordset(wanted) as w (c uuid, k text, v text)
            join patient q on q.company_id = w.c and q.account_number = w.v where w.k = 'account'
        ) x on p.company_id = x.c and p.patient_id = x.v;
    end if;
end $$;

-- Charges with their words now and their balances: sums over transfers, never stored.
create function read_charges(companies uuid[], ids uuid[])
returns table (
    company_id uuid, charge_id uuid, version bigint, posted_at timestamptz, source text, external_id text, poster_id uuid,
    state text, patient_id uuid, location_id uuid, payer_id uuid, date_of_service date, procedure_code text,
    modifiers text[], units integer, diagnosis_codes text[], amount_cents bigint,
    payer_due bigint, patient_due bigint, applied_cents bigint, adjusted_cents bigint, touched_version bigint
)
language sql stable as $$
    select h.company_id, h.charge_id, h.version, h.posted_at, h.source, h.external_id, h.poster_id,
        r.state, r.patient_id, r.location_id, r.payer_id, r.date_of_service, r.procedure_code,
        r.modifiers, r.units, r.diagnosis_codes, r.amount_cents,
        coalesce(t.payer_due, 0)::bigint, coalesce(t.patient_due, 0)::bigint,
        coalesce(t.applied, 0)::bigint, coalesce(t.adjusted, 0)::bigint, greatest(r.version, t.version)
    from unnest(companies, ids) as w (c, v)
    join charge h on h.company_id = w.c and h.charge_id = w.v
    cross join lateral (
        select * from charge_revision r where r.company_id = w.c and r.charge_id = w.v order by r.version desc limit 1
    ) r
    cross join lateral (
        select max(t.version) as version,
            sum(case 'receivable_payer' when t.debit then t.amount_cents when t.credit then -t.amount_cents end) as payer_due,
            sum(case 'receivable_patient' when t.debit then t.amount_cents when t.credit then -t.amount_cents end) as patient_due,
            sum(case 'unapplied' when t.debit then t.amount_cents when t.credit then -t.amount_cents end) as applied,
            sum(case 'adjustment' when t.debit then t.amount_cents when t.credit then -t.amount_cents end) as adjusted
        from transfer t where t.company_id = w.c and t.charge_id = w.v
    ) t
$$;

-- Receipts with their words now, their net transfers, and what reversed or refunded them.
create function read_payments(companies uuid[], ids uuid[], with_lines boolean default true)
returns table (
    company_id uuid, payment_id uuid, version bigint, posted_at timestamptz, posting_date date, poster_id uuid,
    affiliation text, source text, external_id text, reverses_id uuid, refunds_id uuid,
    amount_cents bigint, method text, check_number text, batch_number text, deposit_date date, location_id uuid,
    payer_id uuid, patient_id uuid, memo text, payment_type text, withdrawn boolean,
    lines json, reversed_by uuid, refunded_cents bigint, touched_version bigint
)
language sql stable as $$
    select p.company_id, p.payment_id, p.version, p.posted_at, p.posting_date, p.poster_id,
        p.affiliation, p.source, p.external_id, p.reverses_id, p.refunds_id,
        r.amount_cents, r.method, r.check_number, r.batch_number, r.deposit_date, r.location_id,
        r.payer_id, r.patient_id, r.memo, r.payment_type, r.withdrawn,
        t.lines, v.payment_id, coalesce(f.cents, 0)::bigint, greatest(r.version, t.version)
    from unnest(companies, ids) as w (c, v)
    join payment p on p.company_id = w.c and p.payment_id = w.v
    cross join lateral (
        select * from payment_revision r where r.company_id = w.c and r.payment_id = w.v order by r.version desc limit 1
    ) r
    cross join lateral (
        select max(g.version) as version,
            coalesce(json_agg(json_build_array(g.debit, g.credit, g.detail, g.charge_id, g.cents) order by g.first), '[]') as lines
        from (
            select t.debit, t.credit, t.detail, t.charge_id, sum(t.amount_cents) as cents,
                max(t.version) as version, min((t.version, t.ordinal)::text) as first
            from transfer t where with_lines and t.company_id = w.c and t.payment_id = w.v
            group by t.debit, t.credit, t.detail, t.charge_id
        ) g
    ) t
    left join payment v on v.company_id = w.c and v.reverses_id = w.v
    cross join lateral (
        select sum(-q.amount_cents) as cents from payment f
        cross join lateral (
            select * from payment_revision q where q.company_id = f.company_id and q.payment_id = f.payment_id
            order by q.version desc limit 1
        ) q
        where f.company_id = w.c and f.refunds_id = w.v
    ) f
$$;

-- Insert what a batch decided: a JSON list of rows for each table, or null. `company_books` names every company that is
-- written to, with its new version and the count of writes at which the batch was decided.
-- A parameter for each, because looking a member up in one big JSON value parses all of it every time.
create function append_books(
    company_books json,
    postings json,
    payers json,
    patients json,
    referring_physicians json,
    charges json,
    charge_revisions json,
    payments json,
    payment_revisions json,
    transfers json,
    batches json,
    idempotency_keys json,
    feed_documents json,
    remittances json,
    remittance_lines json,
    feed_items json,
    feed_exceptions json,
    events json
)
returns void
language plpgsql volatile as $$
declare
    moved integer;
begin
    perform 1 from company_book b join json_populate_recordset(null::company_book, company_books) v using (company_id)
    order by b.company_id for update of b;
    update company_book b set version = v.version, writes = b.writes + 1
    from json_populate_recordset(null::company_book, company_books) v
    where b.company_id = v.company_id and b.writes = v.writes;
    get diagnostics moved = row_count;
    if moved <> json_array_length(company_books) then
        raise exception using errcode = 'serialization_failure', message = 'the books were written meanwhile';
    end if;
    insert into posting select * from json_populate_recordset(null::posting, postings);
    if payers is not null then
        insert into payer select * from json_populate_recordset(null::payer, payers)
        on conflict (company_id, payer_id) do update set code = excluded.code, name = excluded.name,
            payer_class = excluded.payer_class, era_payer_ids = excluded.era_payer_ids, version = excluded.version;
    end if;
    if patients is not null then
        insert into patient select * from json_populate_recordset(null::patient, patients)
        on conflict (company_id, patient_id) do update set account_number = excluded.account_number,
            first_name = excluded.first_name, last_name = excluded.last_name, date_of_birth = excluded.date_of_birth,
            payer_id = excluded.payer_id, version = excluded.version;
    end if;
    if referring_physicians is not null then
        insert into referring_physician
        select * from json_populate_recordset(null::referring_physician, referring_physicians)
        on conflict (company_id, referring_physician_id) do update set npi = excluded.npi,
            first_name = excluded.first_name, last_name = excluded.last_name, version = excluded.version;
    end if;
    if charges is not null then
        insert into charge select * from json_populate_recordset(null::charge, charges);
    end if;
    if charge_revisions is not null then
        insert into charge_revision select * from json_populate_recordset(null::charge_revision, charge_revisions);
    end if;
    if payments is not null then
        insert into payment select * from json_populate_recordset(null::payment, payments);
    end if;
    if payment_revisions is not null then
        insert into payment_revision
        select * from json_populate_recordset(null::payment_revision, payment_revisions);
    end if;
    if transfers is not null then
        insert into transfer select * from json_populate_recordset(null::transfer, transfers);
    end if;
    if batches is not null then
        insert into batch select * from json_populate_recordset(null::batch, batches);
    end if;
    if idempotency_keys is not null then
        insert into idempotency select * from json_populate_recordset(null::idempotency, idempotency_keys)
        on conflict do nothing;
        get diagnostics moved = row_count;
        if moved <> json_array_length(idempotency_keys) then
            raise exception using errcode = 'serialization_failure', message = 'a key was used before';
        end if;
    end if;
    if feed_documents is not null then
        insert into feed_document select * from json_populate_recordset(null::feed_document, feed_documents)
        on conflict (company_id, source, kind, external_id) do update set
            external_version = excluded.external_version, document_id = excluded.document_id,
            deleted = excluded.deleted, content_hash = excluded.content_hash;
    end if;
    if remittances is not null then
        insert into remittance select * from json_populate_recordset(null::remittance, remittances);
    end if;
    if remittance_lines is not null then
        insert into remittance_line
        select * from json_populate_recordset(null::remittance_line, remittance_lines)
        on conflict do nothing;
    end if;
    if feed_items is not null then
        insert into feed_item (company_id, feed_id, item_id, item_key, outcome, reason, amount_cents, posted_cents, payment_id)
        select company_id, feed_id, item_id, item_key, outcome, reason, amount_cents, posted_cents, payment_id
        from json_populate_recordset(null::feed_item, feed_items)
        on conflict do nothing;
    end if;
    if feed_exceptions is not null then
        insert into feed_exception
            (company_id, exception_id, feed_id, item_key, reason, quarantined, detail, raw, payment_id, source)
        select company_id, exception_id, feed_id, item_key, reason, quarantined, detail, raw, payment_id, source
        from json_populate_recordset(null::feed_exception, feed_exceptions)
        on conflict do nothing;
    end if;
    if events is not null then
        insert into event select * from json_populate_recordset(null::event, events);
        insert into outbox (company_id, first_version)
        select company_id, first_version from json_populate_recordset(null::event, events)
        order by company_id, first_version;
    end if;
end $$;

-- A location that closes, or another time zone, is a write to the books too: who decided on the old one is refused.
create function count_write() returns trigger language plpgsql as $$
begin
    update company_book set writes = writes + 1 where company_id = new.company_id;
    return null;
end $$;
create trigger count_write after insert or update on directory_company for each row execute function count_write();
create trigger count_write after insert or update on directory_location for each row execute function count_write();

-- Rights, not triggers, make the money tables append-only.
do $$
begin
    if not exists (select from pg_roles where rolname = 'ledger_app') then
        create role ledger_app nologin;
    end if;
    if not pg_has_role(current_user, 'ledger_app', 'member') then
        execute format('grant ledger_app to %I', current_user);
    end if;
end $$;
grant usage on schema public to ledger_app;
grant select on all tables in schema public to ledger_app;
grant insert on posting, charge, charge_revision, payment, payment_revision, transfer, batch, idempotency, event,
    remittance, remittance_line, feed_chunk, feed_item to ledger_app;
grant insert, update on company_book, payer, patient, referring_physician, feed, feed_document, feed_exception,
    directory_company, directory_location, directory_user, directory_client, directory_progress to ledger_app;
grant insert, delete on outbox to ledger_app;
